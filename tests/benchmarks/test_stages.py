"""The benchmarks' instruments, on a real server under a real load; no test of speed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.h2load import framed, h2load
from benchmarks.processes import METHOD, Server, convoy_serve
from benchmarks.stages import breakdown
from benchmarks.workloads import Workload
from convoy.bundle import Bundle
from convoy.v1 import image_classifier_pb2 as pb
from tests.bundles import make_bundle, solid

PIXELS = pb.Image(pixels=pb.Pixels(height=32, width=32, channels=3, data=bytes(3072)))

pytestmark = pytest.mark.skipif(
    shutil.which("h2load") is None, reason="h2load is missing (Debian: nghttp2-client)"
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[Server]:
    with convoy_serve(bundle.model_path.parents[2], compiled=False) as running:
        yield running


@pytest.mark.parametrize("image", [PIXELS, pb.Image(encoded=solid("red"))], ids=["raw", "encoded"])
def test_each_stage_takes_a_part_of_the_round_trip(
    bundle: Bundle, server: Server, tmp_path: Path, image: pb.Image
) -> None:
    load = Workload("test", "tiny", image, 1, 1, 1)
    found = breakdown(server, bundle, load, 1, 0.05, tmp_path / "body")
    parts = ("transport", "front", "queue", "compute, bare", "answer")
    assert all(found.stages[name] > 0 for name in parts)
    assert (found.stages["decode, bare"] > 0) == load.encoded
    assert found.batch_size == 1.0


def test_calls_that_fail_are_counted(server: Server, tmp_path: Path) -> None:
    body = tmp_path / "body"
    url = f"http://{server.grpc_address}{METHOD}Classify"
    body.write_bytes(framed(pb.ClassifyRequest(images=[PIXELS])))
    good = h2load(url, body, requests=40, in_flight=8)
    answer = round(good.answer_bytes / good.requests)
    body.write_bytes(framed(pb.ClassifyRequest(images=[PIXELS], model="unknown")))
    bad = h2load(url, body, requests=40, in_flight=8)
    assert (good.failed(answer), bad.failed(answer)) == (0, 40)
