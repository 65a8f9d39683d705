"""Every odd file through the running service: the answer its row in manifest.csv says."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import grpc
import pytest

from convoy.v1 import image_classifier_pb2 as pb
from tests.bundles import make_bundle, solid
from tests.servers import PATIENCE, Running, running_server

pytestmark = pytest.mark.usefixtures("front")

OUTCOMES = {
    "decodes": {"OK"},
    "refused": {"INVALID_ARGUMENT"},
    "either": {"OK", "INVALID_ARGUMENT"},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, front: str) -> Iterator[Running]:
    """The service on a model of 64 x 64."""
    models = tmp_path_factory.mktemp("models")
    make_bundle(models, size=64)
    with running_server(models, front=front) as running:
        yield running


def test_each_file_gets_its_answer_and_its_neighbours_theirs(
    server: Running, odd_images: Path
) -> None:
    with (odd_images / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    good = pb.ClassifyRequest(images=[pb.Image(encoded=solid("blue"))])
    wrong = []
    with server.stub() as stub:
        calls = []
        for row in rows:
            data = (odd_images / row["file"]).read_bytes()
            request = pb.ClassifyRequest(images=[pb.Image(encoded=data)])
            calls.append((row, stub.Classify.future(request, timeout=PATIENCE)))
            calls.append(({"file": "good", "expected": "decodes"}, stub.Classify.future(good)))
        for row, call in calls:
            code = (call.exception(PATIENCE) and call.code()) or grpc.StatusCode.OK
            if code.name not in OUTCOMES[row["expected"]]:
                wrong.append((row["file"], row["expected"], code.name, call.details()))
    assert not wrong
    assert server.metric("grpc_server_handled_total", grpc_code="INTERNAL") == 0


def test_memory_returns_after_the_largest_of_them(server: Running, odd_images: Path) -> None:
    data = (odd_images / "zune_speed_bench_prog.jpg").read_bytes()
    request = pb.ClassifyRequest(images=[pb.Image(encoded=data)])
    with server.stub() as stub:
        before = server.metric("process_resident_memory_bytes")
        for _ in range(5):
            stub.Classify(request, timeout=PATIENCE)
        patience = monotonic() + PATIENCE
        while server.metric("process_resident_memory_bytes") - before > 20e6:
            assert monotonic() < patience
