"""The load generator, on real servers; no test of speed."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator

import pytest
from PIL import Image

from benchmarks.loops import Target, closed_loop, open_loop
from convoy.v1 import image_classifier_pb2 as pb
from tests.bundles import make_bundle
from tests.servers import PATIENCE, Running, running_server

PIXELS = pb.Image(pixels=pb.Pixels(height=32, width=32, channels=3, data=bytes(3072)))
REQUEST = pb.ClassifyRequest(images=[PIXELS])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, front: str) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    make_bundle(models)
    with running_server(models, front=front) as running:
        yield running


def target(server: Running, request: pb.ClassifyRequest, deadline: float = PATIENCE) -> Target:
    return Target(server.grpc_address, request.SerializeToString(), deadline)


def test_calls_are_counted_as_the_server_counts_them(server: Running) -> None:
    before = server.metric("grpc_server_handled_total", grpc_code="OK")
    closed = closed_loop(target(server, REQUEST), 0.2, callers=4)
    opened = open_loop(target(server, REQUEST), 100, 0.2)
    assert closed.errors == opened.errors == 0
    sent = len(closed.good) + len(opened.good)
    assert len(closed.good) >= 4
    assert server.metric("grpc_server_handled_total", grpc_code="OK") - before == sent


def test_an_error_is_counted_by_its_status(server: Running) -> None:
    unknown = pb.ClassifyRequest(images=[PIXELS], model="unknown")
    answers = closed_loop(target(server, unknown), 0.05)
    assert set(answers.latencies) == {"NOT_FOUND"}
    assert answers.errors == len(answers.calls)


def test_a_message_larger_than_the_windows_arrives_whole(server: Running) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (1024, 1024), "red").save(buffer, "PNG", compress_level=0)
    assert buffer.tell() > 3_000_000
    large = pb.ClassifyRequest(images=[pb.Image(encoded=buffer.getvalue())])
    answers = closed_loop(target(server, large), 0.05, callers=8)
    assert set(answers.latencies) == {"OK"}


def test_a_deadline_ends_calls_that_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        answers = closed_loop(Target(f"127.0.0.1:{mute.getsockname()[1]}", b"", 0.2), 0.1)
    assert set(answers.latencies) == {"DEADLINE_EXCEEDED"}
