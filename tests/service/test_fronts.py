"""What a front owes its callers, whatever it is made of."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from convoy.v1 import image_classifier_pb2 as pb
from convoy.v1 import image_classifier_pb2_grpc as rpc
from tests.bundles import solid
from tests.servers import PATIENCE, Running, running_server

pytestmark = pytest.mark.usefixtures("front")

ONE = pb.ClassifyRequest(images=[pb.Image(encoded=solid("red"))])
# Nothing runs before this has passed.
FOREVER = {"max_delay_ms": 10_000}


def code_of(call: grpc.Future) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as failure:
        call.result(PATIENCE)
    return failure.value.code()


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests(stub: rpc.ImageClassifierStub, compression: grpc.Compression) -> None:
    request = pb.ClassifyRequest(images=ONE.images, request_id="7" * 100)
    reply = stub.Classify(request, compression=compression, timeout=PATIENCE)
    assert reply.request_id == request.request_id


def test_a_large_message_comes_through(models: Path) -> None:
    large = pb.Image(encoded=solid("red") + bytes(20_000_000))
    with running_server(models, max_image_bytes=30_000_000) as server, server.stub() as stub:
        reply = stub.Classify(pb.ClassifyRequest(images=[large]), timeout=PATIENCE)
        assert len(reply.predictions) == 1


def test_a_message_that_is_none(server: Running) -> None:
    with grpc.insecure_channel(server.grpc_address) as channel:
        call = channel.unary_unary("/convoy.v1.ImageClassifier/Classify")
        assert code_of(call.future(b"\xff\xff", timeout=PATIENCE)) is (
            grpc.StatusCode.INVALID_ARGUMENT
        )


@pytest.mark.parametrize("path", ["/convoy.v1.ImageClassifier/Clasify", "/none.Service/Classify"])
def test_a_method_that_is_none(server: Running, path: str) -> None:
    with grpc.insecure_channel(server.grpc_address) as channel:
        call = channel.unary_unary(path).future(b"", timeout=PATIENCE)
        assert code_of(call) is grpc.StatusCode.UNIMPLEMENTED


def test_texts_keep_their_letters(stub: rpc.ImageClassifierStub) -> None:
    with pytest.raises(grpc.RpcError, match="model '100% Größe'"):
        stub.GetModel(pb.GetModelRequest(model="100% Größe"), timeout=PATIENCE)


def test_answers_of_a_stream_come_before_it_ends(stub: rpc.ImageClassifierStub) -> None:
    answered = threading.Semaphore(1)

    def requests() -> Iterator[pb.ClassifyRequest]:
        for number in range(5):
            assert answered.acquire(timeout=PATIENCE)
            yield pb.ClassifyRequest(images=ONE.images, request_id=str(number))

    seen = []
    for reply in stub.ClassifyStream(requests(), timeout=PATIENCE):
        seen.append(reply.response.request_id)
        answered.release()
    assert seen == list("01234")


def test_an_empty_stream(stub: rpc.ImageClassifierStub) -> None:
    assert list(stub.ClassifyStream(iter(()), timeout=PATIENCE)) == []


def test_a_stream_of_megabytes_with_a_reader_that_dawdles(stub: rpc.ImageClassifierStub) -> None:
    image = pb.Image(encoded=solid("red") + bytes(500_000))
    replies = stub.ClassifyStream(iter([pb.ClassifyRequest(images=[image])] * 60), timeout=PATIENCE)
    first = next(replies)
    threading.Event().wait(0.2)
    assert [len(one.response.predictions) for one in (first, *replies)] == [1] * 60


def test_the_deadline_of_a_stream(models: Path) -> None:
    hold = threading.Event()

    def requests() -> Iterator[pb.ClassifyRequest]:
        yield ONE
        hold.wait(PATIENCE)

    with running_server(models, **FOREVER) as server, server.stub() as stub:
        with pytest.raises(grpc.RpcError) as failure:
            list(stub.ClassifyStream(requests(), timeout=1))
        hold.set()
        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        server.wait_for_metric(0, "convoy_requests_in_flight")
        # Under which code: test_deadlines. By the clocks of two ends it is not certain.
        server.wait_for_metric(1, "grpc_server_handled_total", grpc_method="ClassifyStream")


def test_health_checks_are_not_among_the_calls(server: Running) -> None:
    with grpc.insecure_channel(server.grpc_address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
    assert "grpc.health.v1" not in server.get("/metrics")


def test_callers_whose_connection_breaks_are_taken_out_of_the_queue(models: Path) -> None:
    with running_server(models, **FOREVER) as server:
        with server.stub() as stub:
            calls = [stub.Classify.future(ONE) for _ in range(5)]
            calls.append(stub.ClassifyStream(iter([ONE] * 3)))
            server.wait_for_metric(8, "convoy_queue_depth")
        server.wait_for_metric(0, "convoy_queue_depth")
        server.wait_for_metric(0, "convoy_requests_in_flight")
        assert server.metric("convoy_dropped_total", reason="cancelled") == 8
