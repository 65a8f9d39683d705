"""Limits of connections, and the log of calls, which every front has in its own library."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from convoy.v1 import image_classifier_pb2 as pb
from convoy.v1 import image_classifier_pb2_grpc as rpc
from tests.bundles import solid
from tests.servers import PATIENCE, Running, running_server, server_process
from tests.service import http2

pytestmark = pytest.mark.usefixtures("front")

ONE = pb.ClassifyRequest(images=[pb.Image(encoded=solid("red"))])
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
PING, GOAWAY = 6, 7


def frames(server: Running) -> Iterator[int]:
    """Types of the HTTP/2 frames that a caller gets who says hello and nothing more."""
    host, port = server.grpc_address.split(":")
    with socket.create_connection((host, int(port)), PATIENCE) as connection:
        connection.sendall(HELLO)
        reader = connection.makefile("rb")
        with suppress(ConnectionResetError):  # closed, as after a read of nothing
            while head := reader.read(9):
                yield head[3]
                reader.read(int.from_bytes(head[:3]))


def test_who_does_not_answer_pings_is_disconnected(models: Path) -> None:
    with running_server(models, keepalive_interval=0.2) as server:
        assert PING in list(frames(server))  # which has come to an end


def test_connections_without_calls_are_closed(models: Path) -> None:
    with running_server(models, idle_timeout=0.2) as server:
        assert GOAWAY in frames(server)


def test_calls_that_are_given_up_do_not_harm_the_others(models: Path) -> None:
    path, calls = "/grpc.health.v1.Health/Check", 2_000
    request = b"".join(http2.given_up(path, stream=2 * n + 1) for n in range(calls))
    request += http2.post(path, bytes(5), stream=2 * calls + 1)
    with running_server(models) as server:
        assert http2.wait_for_end(
            server.grpc_address, request, seconds=PATIENCE, last=2 * calls + 1
        )


def test_connections_beyond_the_limit_are_refused_until_others_end(models: Path) -> None:
    def own_connection() -> grpc.Channel:
        options = [("grpc.use_local_subchannel_pool", 1)]
        return grpc.insecure_channel(server.grpc_address, options)

    with running_server(models, max_connections=1) as server:
        with own_connection() as first, own_connection() as second:
            assert rpc.ImageClassifierStub(first).Classify(ONE, timeout=PATIENCE).model == "tiny"
            with pytest.raises(grpc.RpcError) as failure:
                rpc.ImageClassifierStub(second).Classify(ONE, timeout=PATIENCE)
            assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
        with own_connection() as third:
            classify = rpc.ImageClassifierStub(third).Classify
            assert classify(ONE, timeout=PATIENCE, wait_for_ready=True).model == "tiny"


def test_each_call_is_in_the_log_where_asked_for(
    models: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with server_process(models, "--access-log") as server, server.stub() as stub:
        answer = stub.Classify(ONE, timeout=PATIENCE)
        with pytest.raises(grpc.RpcError):
            stub.GetModel(pb.GetModelRequest(model="none"), timeout=PATIENCE)
        list(stub.ClassifyStream(iter([ONE] * 2), timeout=PATIENCE))
        assert server.process is not None
        server.process.terminate()
        server.process.wait(PATIENCE)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    calls = [one for one in lines if one["event"] == "call"]
    service = "/convoy.v1.ImageClassifier"
    assert [(one["path"], one["status"]) for one in calls] == [
        (f"{service}/Classify", "OK"),
        (f"{service}/GetModel", "NOT_FOUND"),
        (f"{service}/ClassifyStream", "OK"),
    ]
    assert all(one["peer"].startswith("127.0.0.1:") for one in calls)
    assert all("grpc-python" in one["user_agent"] for one in calls)
    assert calls[0]["bytes_received"] >= ONE.ByteSize()
    assert calls[0]["bytes_sent"] >= answer.ByteSize()
    assert calls[2]["bytes_received"] >= 2 * ONE.ByteSize()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("/grpc.health.v1.Health/Watch", HealthCheckRequest()),
        (
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            ServerReflectionRequest(list_services="*"),
        ),
    ],
)
def test_streams_without_images_are_bounded_by_the_connections(
    models: Path, front: str, method: str, message: Message
) -> None:
    over = threading.Event()

    def ask(channel: grpc.Channel) -> Any:
        def messages() -> Iterator[bytes]:
            yield message.SerializeToString()
            over.wait(PATIENCE)

        return channel.stream_stream(method)(messages(), timeout=PATIENCE)

    with (
        running_server(models, front=front, max_connections=2) as server,
        grpc.insecure_channel(server.grpc_address) as channel,
    ):
        try:
            first, second = ask(channel), ask(channel)
            assert all(next(one) for one in (first, second))
            with pytest.raises(grpc.RpcError, match="2 calls of this method are open") as failure:
                next(ask(channel))
            assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            first.cancel()
            while not answered(ask(channel)):  # until the server has seen that the first has left
                pass
        finally:
            over.set()


def answered(call: Any) -> bool:
    """Whether a stream has an answer."""
    with suppress(grpc.RpcError):
        return bool(next(call))
    return False
