"""The clients and the command against the real service, in a process of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

import convoy
from convoy.cli import main
from tests.bundles import COLOURS, expected, make_bundle, solid
from tests.servers import server_process

pytestmark = pytest.mark.usefixtures("front")

FILES = {"red": solid("red"), "green": solid("lime", 90, "JPEG"), "blue": solid("blue", 50, "GIF")}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, front: str) -> Iterator[str]:
    models = tmp_path_factory.mktemp("models")
    make_bundle(models)
    make_bundle(models, "grey", channels=1)
    limits = ["--default-model", "tiny", "--max-queue-size", "64", "--front", front]
    with server_process(models, *limits) as running:
        yield running.grpc_address


def test_every_kind_of_input_gets_the_same_answer(target, tmp_path):
    file = tmp_path / "green.jpg"
    file.write_bytes(FILES["green"])
    picture = Image.open(file)
    images = [file, str(file), FILES["green"], picture, np.asarray(picture)]
    with convoy.ImageClient(target) as client:
        results = client.classify(images)
    assert {one.label for one in results} == {"green"}
    assert len({one.classes for one in results}) == 1


def test_raw_pixels_are_answered_exactly(target):
    pixels = np.random.default_rng(0).integers(0, 256, (100, 32, 32, 3), np.uint8)
    with convoy.ImageClient(target) as client:
        results = client.classify(list(pixels), top_k=3)
    order = np.argsort([[one.index for one in result.classes] for result in results])
    answers = np.array([[one.probability for one in result.classes] for result in results])
    np.testing.assert_allclose(
        np.take_along_axis(answers, order, axis=1), expected(pixels), atol=1e-5
    )


def test_overload_is_waited_out(target):
    """Four times what the queue holds is in flight: the server pushes back, the client obeys."""
    batching = convoy.Batching(images_per_call=32, calls_in_flight=8)
    images = [np.full((32, 32, 3), value % 256, np.uint8) for value in range(2000)]

    async def use() -> list[convoy.Result | convoy.ClientError]:
        async with convoy.AsyncImageClient(target, batching=batching) as client:
            return [one async for one in client.classify_stream(images)]

    results = asyncio.run(use())
    assert len(results) == 2000
    assert all(isinstance(one, convoy.Result) for one in results)


def test_burst_is_answered_or_refused_but_never_cancelled(target):
    """gRPC itself cancels calls at random where more arrive than it is told to hold."""

    async def use() -> list[object]:
        once = convoy.Retry(attempts=1)
        async with convoy.AsyncImageClient(target, retry=once, timeout=120) as client:
            calls = (client.classify(FILES["red"]) for _ in range(3000))
            return await asyncio.gather(*calls, return_exceptions=True)

    outcomes = asyncio.run(use())
    assert {type(one) for one in outcomes} <= {convoy.Result, convoy.Overloaded}


def test_bad_images_keep_their_place_among_good_ones(target):
    images = [FILES["red"], b"no image", FILES["blue"], FILES["green"][:300]]
    with convoy.ImageClient(target) as client:
        red, first, blue, second = client.classify_stream(images)
    assert (red.label, blue.label) == ("red", "blue")
    assert isinstance(first, convoy.InvalidRequest)
    assert (first.index, second.index) == (1, 3)


def test_models_and_health(target):
    with convoy.ImageClient(target, model="grey") as client:
        assert [one.name for one in client.list_models()] == ["grey", "tiny"]
        assert client.get_model().input_shape == (32, 32, 1)
        assert client.health() == client.health("tiny") == "SERVING"
        with pytest.raises(convoy.NotFound):
            client.get_model("missing")
        assert client.classify(np.zeros((32, 32), np.uint8)).model == "grey"


def test_commands(target, tmp_path, capsys):
    for name, content in FILES.items():
        (tmp_path / f"{name}.png").write_bytes(content)
    server = ["--server", target]
    assert main(["classify", "--json", *server, str(tmp_path)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["label"] for row in rows] == sorted(COLOURS)
    assert main(["health", *server]) == main(["models", *server]) == 0


@pytest.mark.parametrize("options", [[], ["--streaming"], ["--rate", "200"]])
def test_bench(target, capsys, options):
    assert main(["bench", "--json", "--requests", "100", "--server", target, *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["requests"], report["errors"]) == (100, {})
    assert 0 < report["stages_ms"]["compute"]["p50"] < report["latency_ms"]["max"]
