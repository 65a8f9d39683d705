"""What the service owes callers over HTTP beside answers: counts, limits, a drain."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import signal
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

from service.rest.application import STATUSES
from service.server import Server
from service.settings import Settings
from service.status import Code
from tests.bundles import solid
from tests.servers import PATIENCE, TOKEN, running_server, server_process
from tests.service.busy import busy_server
from tests.service.rest import INFER, Reply, ask, pixels_input, rest_addresses

PHOTO = {"Inference-Header-Content-Length": "0"}
# Nothing runs before this has passed.
FOREVER = {"max_delay_ms": 10_000}


def infer(address: str) -> Reply:
    return ask(address, INFER, solid("red"), PHOTO)


def test_every_status_has_one_of_http() -> None:
    assert set(Code) == STATUSES.keys()


def test_calls_are_counted_as_those_over_grpc(models: Path, front: str) -> None:
    with running_server(models) as server:
        addresses = rest_addresses(server, front)
        for address in addresses:
            assert infer(address).status == 200
            assert ask(address, INFER, b"{").status == 400
        labels = {"grpc_service": "inference.GRPCInferenceService", "grpc_method": "ModelInfer"}
        times = len(addresses)
        assert server.metric("grpc_server_started_total", **labels) == 2 * times
        assert server.metric("grpc_server_handled_total", grpc_code="OK", **labels) == times
        wrong = server.metric("grpc_server_handled_total", grpc_code="INVALID_ARGUMENT", **labels)
        assert wrong == times
        assert server.metric("convoy_rejected_total", reason="invalid") == times
        assert server.metric("convoy_images_total") == times


def test_callers_that_leave_are_taken_out_of_the_queue(models: Path, front: str) -> None:
    with running_server(models, **FOREVER) as server:
        addresses = rest_addresses(server, front)
        connections = []
        for address in addresses:
            connections.append(http.client.HTTPConnection(address, timeout=PATIENCE))
            connections[-1].request("POST", INFER, solid("red"), PHOTO)
        server.wait_for_metric(len(addresses), "convoy_queue_depth")
        for connection in connections:
            connection.close()
        server.wait_for_metric(0, "convoy_queue_depth")
        assert server.metric("convoy_dropped_total", reason="cancelled") == len(addresses)


def test_a_drain_waits_for_the_answers(models: Path, front: str) -> None:
    with server_process(models, "--max-delay-ms=10000") as server, ThreadPoolExecutor() as pool:
        addresses = rest_addresses(server, front)
        calls = [pool.submit(infer, address) for address in addresses]
        server.wait_for_metric(len(addresses), "convoy_queue_depth")
        assert server.process is not None
        server.process.terminate()
        assert [call.result(PATIENCE).status for call in calls] == [200] * len(addresses)
        assert server.process.wait(PATIENCE) == 0


def test_a_full_queue_says_when_to_come_back(models: Path, front: str) -> None:
    with (
        ThreadPoolExecutor() as pool,
        running_server(models, max_queue_size=1, **FOREVER) as server,
    ):
        first = pool.submit(infer, server.http_address)
        server.wait_for_metric(1, "convoy_queue_depth")
        for address in rest_addresses(server, front):
            reply = infer(address)
            assert reply.status == 429
            assert int(reply.headers["retry-after"]) >= 1
            assert int(reply.headers["grpc-retry-pushback-ms"]) >= 1
    assert first.result().status == 200


def test_control_needs_the_token(models: Path, front: str) -> None:
    with running_server(models, control_token=TOKEN) as server:
        for address in rest_addresses(server, front):
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
                for action in ("load", "unload"):
                    path = f"/v2/repository/models/tiny/{action}"
                    reply = ask(address, path, b"", headers)
                    assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
            assert ask(address, "/v2/models/tiny/ready").status == 200
            for action, ready in (("unload", 400), ("load", 200)):
                path = f"/v2/repository/models/tiny/{action}"
                reply = ask(address, path, b"", {"Authorization": f"Bearer {TOKEN}"})
                assert (reply.status, reply.body) == (200, b"")
                assert ask(address, "/v2/models/tiny/ready").status == ready


def test_parameters_of_a_load_are_refused_by_their_names(models: Path, front: str) -> None:
    path, authorization = "/v2/repository/models/tiny/load", f"Bearer {TOKEN}"
    request = {"parameters": {"config": {}, "file:1/model.onnx": "no base64"}}
    with running_server(models, control_token=TOKEN) as server:
        for address in rest_addresses(server, front):
            reply = ask(address, path, request, {"Authorization": authorization})
            assert reply.status == 501
            assert reply.error.startswith("parameters: config, file:1/model.onnx: ")


def test_a_timeout_of_the_request_holds(tmp_path: Path, front: str) -> None:
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    request = {
        "inputs": [pixels_input(pixels, data=pixels.tolist())],
        "parameters": {"timeout": 1000},
    }
    with busy_server(tmp_path) as server:
        for address in rest_addresses(server, front):
            reply = ask(address, INFER, request)
            assert reply.status == 504
            assert "1,000 microseconds" in reply.error


def beside_a_starting_server(
    models: Path, work: Callable[[str], Any], *, busy: bool = False, **settings: Any
) -> Any:
    """Call `work` with the address of HTTP of a service that listens and has loaded nothing.

    Where it is `busy`, its event loop does not turn meanwhile.
    """
    wanted = {"grpc_address": "127.0.0.1:0", "http_address": "127.0.0.1:0", "device": "cpu"}

    async def life() -> Any:
        server = Server(Settings(models=models, **(wanted | settings)))
        await server.listen()
        try:
            with ThreadPoolExecutor() as pool:
                call = pool.submit(work, server.http_address)
                return call.result(PATIENCE) if busy else await asyncio.wrap_future(call)
        finally:
            await server.close()

    return uvloop.run(life())


def test_it_lives_before_it_is_ready(models: Path) -> None:
    def work(address: str) -> None:
        assert ask(address, "/v2").status == 200
        assert ask(address, "/v2/health/live").status == 200
        assert ask(address, "/v2/health/ready").status == 400
        assert ask(address, "/v2/models/tiny/ready").status == 400
        assert infer(address).status == 503
        assert ask(address, "/readyz").status == 503

    beside_a_starting_server(models, work)


def test_operators_are_answered_while_the_event_loop_is_busy(models: Path) -> None:
    def work(address: str) -> None:
        assert ask(address, "/livez").body == b"ok\n"
        assert "convoy_ready 0.0" in ask(address, "/metrics").body.decode()

    beside_a_starting_server(models, work, busy=True)


def test_metrics_as_their_readers_want_them(models: Path) -> None:
    def work(address: str) -> None:
        reply = ask(address, "/metrics", headers={"Accept-Encoding": "gzip"})
        assert b"\nconvoy_ready 0.0\n" in gzip.decompress(reply.body)
        accepted = {"Accept": "application/openmetrics-text; version=1.0.0"}
        assert ask(address, "/metrics", headers=accepted).body.endswith(b"# EOF\n")
        assert ask(address, "/livez", method="HEAD").status == 200
        assert ask(address, "/livez", b"").status == 405
        assert ask(address, "/none").status == 404

    beside_a_starting_server(models, work)


@pytest.mark.parametrize(
    "sent", [b"", b"GET /livez HTTP/1.1\r\nHost: a", b"G" * 100_000, b"?\r\n\r\n"]
)
def test_who_never_completes_a_request_is_disconnected(
    models: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr("service.http.protocol.HEAD_SECONDS", 0.1)

    def work(address: str) -> None:
        with connected(address) as peer:
            peer.sendall(sent)
            with suppress(ConnectionResetError):  # closed, as after a read of nothing
                while peer.recv(1000):
                    pass

    beside_a_starting_server(models, work)


def test_who_never_completes_a_body_is_told_so(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.http.application.BODY_SECONDS", 0.1)

    def work(address: str) -> None:
        with connected(address) as peer:
            peer.sendall(b"POST /v2/models/tiny/infer HTTP/1.1\r\nContent-Length: 5\r\n\r\nab")
            answer = b"".join(iter(lambda: peer.recv(1000), b""))
            assert answer.startswith(b"HTTP/1.1 408")

    beside_a_starting_server(models, work)


def test_connections_without_requests_are_closed(models: Path) -> None:
    def work(address: str) -> None:
        with connected(address) as peer:
            peer.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
            assert b"".join(iter(lambda: peer.recv(1000), b"")).endswith(b"ok\n")

    beside_a_starting_server(models, work, idle_timeout=0.2)


def test_connections_beyond_the_limit_are_refused_until_others_end(models: Path) -> None:
    def work(address: str) -> None:
        with connected(address) as first:
            first.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
            first.recv(1000)
            assert ask(address, "/livez").status == 503
        while ask(address, "/livez").status != 200:
            pass  # the other end learns of it in a moment

    beside_a_starting_server(models, work, max_connections=1)


def connected(address: str) -> socket.socket:
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), PATIENCE)


def test_each_call_is_in_the_log_where_asked_for(
    models: Path, capfd: pytest.CaptureFixture[str], front: str
) -> None:
    with server_process(models, "--access-log", "--max-message-bytes=10000") as server:
        addresses = rest_addresses(server, front)
        for address in addresses:
            infer(address)
            ask(address, INFER, bytes(10_001))
            ask(address, "/v2/models/none", headers={"User-Agent": "me"})
        server.get("/livez")
        assert server.process is not None
        server.process.terminate()
        server.process.wait(PATIENCE)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    calls = [one for one in lines if one["event"] == "call"]
    asked = sorted((one["path"], one["http_status"]) for one in calls)
    expected = [(INFER, 200), (INFER, 413), ("/v2/models/none", 404)] * len(addresses)
    assert asked == sorted(expected)
    assert all(one["peer"].startswith("127.0.0.1:") for one in calls)
    assert {one["user_agent"] for one in calls} == {None, "me"}
    answered = [one["bytes_received"] for one in calls if one["http_status"] == 200]
    assert answered == [len(solid("red"))] * len(addresses)


def test_a_call_that_is_reset_at_once_is_in_the_log(
    models: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with server_process(models, "--access-log", "--front=grpcio") as server:
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)  # it asks for the address too late
        with connected(server.http_address) as caller:
            caller.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        server.process.send_signal(signal.SIGCONT)
        server.get("/livez")
        server.process.terminate()
        server.process.wait(PATIENCE)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [one["peer"] for one in lines if one["event"] == "call"] == [None]
    assert not [one for one in lines if one["event"] == "request_failed"]
