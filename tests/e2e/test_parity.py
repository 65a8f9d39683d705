"""The shipped model, served, answers exactly as ONNX Runtime does when called directly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

import convoy
from convoy.imaging import decode
from service.fronts.envoy import why_not
from service.settings import Settings
from tests.bundles import shipped_bundle
from tests.conftest import FRONTS, ROOT
from tests.servers import Running, running_server

CLASSES = 10
EVERY = 4  # photo: all of them take minutes, and prove no more
ALONE = 200


@pytest.fixture(scope="module")
def server(front: str) -> Iterator[Running]:
    """The service on the shipped models, with a queue that holds a whole job's window."""
    with running_server(ROOT / "models", max_queue_size=4096, front=front) as running:
        yield running


@pytest.fixture(scope="session")
def photos(data: Path) -> list[Path]:
    """All 10,000 test images, a photo of another size after every hundredth."""
    test = sorted((data / "cifar10" / "test-jpeg").rglob("*.jpg"))
    flowers = sorted((data / "flowers").rglob("*.jpg"))
    mixed = []
    for index, path in enumerate(test):
        mixed.append(path)
        if index % 100 == 99:
            mixed.append(flowers[index // 100 % len(flowers)])
    return mixed


@pytest.fixture(scope="session")
def pixels(photos: list[Path]) -> NDArray[np.uint8]:
    """The photos as the network takes them, [N, H, W, C]."""
    spec = shipped_bundle().manifest.input
    return np.stack([decode(path.read_bytes(), spec) for path in photos])


@pytest.fixture(scope="session")
def want(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probabilities [N, K] without a server; once for all fronts."""
    return direct(pixels, batch=100)


def direct(pixels: NDArray[np.uint8], *, batch: int) -> NDArray[np.float32]:
    """What ONNX Runtime answers in batches of that size."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # more would wait for each other beside other tests
    model = shipped_bundle().model_path
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    starts = range(0, len(pixels), batch)
    rows = [session.run(None, {"images": pixels[at : at + batch]})[0] for at in starts]
    return np.concatenate(rows)


@pytest.fixture(scope="module")
def share(front: str) -> slice:
    """Every fourth photo; each front answers half of those."""
    if why_not(Settings()) is not None:  # there is one front alone
        return slice(None, None, EVERY)
    return slice(EVERY * FRONTS.index(front), None, EVERY * len(FRONTS))


@pytest.mark.slow
def test_test_images_get_the_labels_of_a_direct_loop(
    server: Running, photos: list[Path], want: NDArray[np.float32], share: slice
) -> None:
    photos, want = photos[share], want[share]
    got = np.zeros_like(want)
    with convoy.ImageClient(server.grpc_address, timeout=300) as client:
        results = list(client.classify_stream(photos, top_k=CLASSES))
    for row, result in zip(got, results, strict=True):
        assert isinstance(result, convoy.Result)
        for score in result.classes:
            row[score.index] = score.probability
    assert np.abs(got - want).max() <= 1e-5
    assert (got.argmax(1) == want.argmax(1)).all()
    labels = shipped_bundle().manifest.labels
    assert [result.label for result in results] == [labels[best] for best in want.argmax(1)]
    assert server.metric("convoy_batch_size_count") < len(photos) / 2  # it did batch


@pytest.mark.slow
def test_who_is_in_the_same_batch_makes_no_difference(
    pixels: NDArray[np.uint8], want: NDArray[np.float32]
) -> None:
    alone = direct(pixels[:ALONE], batch=1)
    assert np.abs(alone - want[:ALONE]).max() <= 1e-5


@pytest.mark.slow
def test_the_manifest_says_how_many_are_right(
    photos: list[Path], want: NDArray[np.float32]
) -> None:
    manifest = shipped_bundle().manifest
    quality = {one.split: one for one in manifest.quality}
    right = [
        manifest.labels[index] == path.parent.name
        for index, path in zip(want.argmax(1), photos, strict=True)
        if "test-jpeg" in path.parts
    ]
    assert len(right) == 10_000
    assert np.mean(right) == pytest.approx(quality["test-jpeg-10000"].accuracy, abs=1e-9)
