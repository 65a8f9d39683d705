"""Queue limits, deadlines, health, reflection, metrics and the HTTP port of a running service."""

from __future__ import annotations

import io
import socket
import threading
import urllib.error
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from convoy.client.channel import KEEPALIVE_MS
from convoy.v1 import image_classifier_pb2 as pb
from convoy.v1 import image_classifier_pb2_grpc as rpc
from service.fronts.grpcio import LEAST_PING_MS
from tests.bundles import solid
from tests.servers import PATIENCE, Running, running_server, server_process
from tests.service.busy import busy_server

pytestmark = pytest.mark.usefixtures("front")

RED = pb.Image(encoded=solid("red"))
ONE = pb.ClassifyRequest(images=[RED])
# Without a near deadline nothing runs before this has passed: requests stay in the queue for as
# long as a test needs.
FOREVER = {"max_delay_ms": 10_000, "max_batch_size": 32}


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(models: Path) -> None:
    with running_server(models, max_queue_size=2, **FOREVER) as server, server.stub() as stub:
        waiting = stub.Classify.future(pb.ClassifyRequest(images=[RED, RED]))
        server.wait_for_metric(2, "convoy_queue_depth")
        with pytest.raises(grpc.RpcError) as failure:
            stub.Classify(ONE)
        assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        trailers = dict(failure.value.trailing_metadata())
        assert int(trailers["grpc-retry-pushback-ms"]) > 0
        assert not waiting.done()
        assert server.metric("convoy_rejected_total", reason="queue_full") == 1


def test_bytes_in_the_queue_are_bounded(models: Path) -> None:
    pixels = pb.Pixels(height=32, width=32, channels=3, data=bytes(3072))
    raw = pb.ClassifyRequest(images=[pb.Image(pixels=pixels)])
    with (
        running_server(models, max_queue_bytes=10_000, **FOREVER) as server,
        server.stub() as stub,
    ):
        waiting = stub.Classify.future(raw)  # 3 kB, and as much again for the batch
        server.wait_for_metric(1, "convoy_queue_depth")
        with pytest.raises(grpc.RpcError) as failure:
            stub.Classify(raw)
        assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not waiting.done()


@pytest.mark.parametrize("method", ["Classify", "ClassifyStream"])
def test_what_came_of_a_request_counts_whether_or_not_it_is_still_there(
    models: Path, method: str
) -> None:
    overwritten, request_id = (pb.ClassifyRequest(request_id=one) for one in ("x" * 8_000, "1"))
    parts = (overwritten, ONE, request_id)  # which protobuf takes for one message
    data = b"".join(one.SerializeToString() for one in parts)
    with (
        running_server(models, max_queue_bytes=10_000) as server,
        grpc.insecure_channel(server.grpc_address) as channel,
    ):
        call = channel.stream_stream(f"/convoy.v1.ImageClassifier/{method}")(
            iter([data]), timeout=PATIENCE
        )
        if method == "ClassifyStream":
            reply = pb.ClassifyStreamResponse.FromString(next(call))
            assert "send fewer at once" in reply.error.message
        else:
            with pytest.raises(grpc.RpcError, match="send fewer at once"):
                next(call)


def test_a_request_that_can_never_fit_is_not_told_to_come_back(models: Path) -> None:
    with running_server(models, max_queue_size=2) as server, server.stub() as stub:
        with pytest.raises(grpc.RpcError, match="the queue holds 2") as failure:
            stub.Classify(pb.ClassifyRequest(images=[RED] * 3))
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_room_comes_back_when_a_request_fails(models: Path) -> None:
    with running_server(models, max_queue_size=1) as server, server.stub() as stub:
        for _ in range(2):
            with pytest.raises(grpc.RpcError, match=r"images\[0\]: "):
                stub.Classify(pb.ClassifyRequest(images=[pb.Image(encoded=b"junk")]))
        assert stub.Classify(ONE, timeout=PATIENCE).model == "tiny"


def test_a_deadline_that_passes_in_the_queue_costs_no_compute(tmp_path: Path) -> None:
    with busy_server(tmp_path) as server, server.stub() as stub:
        with pytest.raises(grpc.RpcError) as failure:
            stub.Classify(ONE, timeout=0.2)
        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        server.wait_for_metric(1, "convoy_requests_in_flight")
        server.wait_for_metric(0, "convoy_queue_depth")
        assert server.metric("convoy_dropped_total", model="tiny") == 1
        assert server.metric("convoy_batch_size_count") == 1


def test_a_batch_does_not_wait_past_a_deadline(models: Path) -> None:
    with running_server(models, **FOREVER) as server, server.stub() as stub:
        assert stub.Classify(ONE, timeout=1).model == "tiny"


def test_a_caller_that_leaves_is_taken_out_of_the_queue(models: Path) -> None:
    with running_server(models, **FOREVER) as server, server.stub() as stub:
        call = stub.Classify.future(ONE)
        server.wait_for_metric(1, "convoy_queue_depth")
        call.cancel()
        server.wait_for_metric(0, "convoy_queue_depth")
        assert server.metric("convoy_dropped_total", reason="cancelled") == 1
        assert server.metric("grpc_server_handled_total", grpc_code="CANCELLED") == 1


def test_messages_are_bounded(models: Path) -> None:
    with running_server(models, max_message_bytes=10_000) as server, server.stub() as stub:
        with pytest.raises(grpc.RpcError) as failure:
            stub.Classify(pb.ClassifyRequest(images=[pb.Image(encoded=bytes(20_000))]))
        assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_health_of_the_server_and_of_each_model(server: Running) -> None:
    with grpc.insecure_channel(server.grpc_address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "convoy.v1.ImageClassifier", "tiny"):
            reply = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as failure:
            health.Check(health_pb2.HealthCheckRequest(service="none"), timeout=PATIENCE)
        assert failure.value.code() is grpc.StatusCode.NOT_FOUND
        listed = health.List(health_pb2.HealthListRequest(), timeout=PATIENCE)
        assert set(listed.statuses) == {
            "",
            "convoy.v1.ImageClassifier",
            "inference.GRPCInferenceService",
            "tiny",
        }


def test_health_watch_needs_a_message(server: Running) -> None:
    with grpc.insecure_channel(server.grpc_address) as channel:
        watch = channel.stream_stream("/grpc.health.v1.Health/Watch")
        with pytest.raises(grpc.RpcError) as failure:
            list(watch(iter(()), timeout=PATIENCE))
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_health_watch_sees_the_drain(models: Path) -> None:
    seen: list[int] = []
    begun = threading.Event()

    def watch(channel: grpc.Channel) -> None:
        with suppress(grpc.RpcError):  # how it ends when the server does
            for reply in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()):
                seen.append(reply.status)
                begun.set()

    with running_server(models) as server:
        channel = grpc.insecure_channel(server.grpc_address)
        watcher = threading.Thread(target=watch, args=(channel,))
        watcher.start()
        assert begun.wait(PATIENCE)
    watcher.join(PATIENCE)
    channel.close()
    response = health_pb2.HealthCheckResponse
    assert seen == [response.SERVING, response.NOT_SERVING]


def test_reflection_lists_the_services(server: Running) -> None:
    with grpc.insecure_channel(server.grpc_address) as channel:
        services = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert {
        "convoy.v1.ImageClassifier",
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
    } <= set(services)


def test_livez_readyz_and_nothing_else(server: Running) -> None:
    assert server.get("/livez") == "ok\n"
    assert server.get("/readyz") == "ok\n"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        server.get("/etc/passwd")


def test_metrics_count_what_happened(models: Path) -> None:
    with running_server(models) as server, server.stub() as stub:
        stub.Classify(pb.ClassifyRequest(images=[RED] * 3), timeout=PATIENCE)
        with pytest.raises(grpc.RpcError):
            stub.Classify(pb.ClassifyRequest(), timeout=PATIENCE)
        server.wait_for_metric(2, "grpc_server_handling_seconds_count", grpc_method="Classify")
        assert server.metric("grpc_server_started_total", grpc_method="Classify") == 2
        assert server.metric("grpc_server_handled_total", grpc_code="OK") == 1
        assert server.metric("grpc_server_handled_total", grpc_code="INVALID_ARGUMENT") == 1
        assert server.metric("convoy_images_total", model="tiny", version="2") == 3
        assert server.metric("convoy_rejected_total", reason="invalid") == 1
        assert server.metric("convoy_batch_size_sum", model="tiny") == 3
        for stage in ("decode", "queue", "compute", "answer"):
            assert server.metric("convoy_stage_seconds_count", stage=stage) == 1
        assert server.metric("convoy_ready") == 1
        assert server.metric("convoy_device_fallback") == 0
        assert server.metric("convoy_model_info", model="tiny", precision="fp32") == 1
        assert server.metric("convoy_model_load_seconds", model="tiny") > 0
        assert server.metric("process_resident_memory_bytes") > 0


def test_the_reply_carries_the_values_of_the_histograms(models: Path) -> None:
    with running_server(models) as server, server.stub() as stub:
        timings = stub.Classify(ONE, timeout=PATIENCE).timings
        for stage in ("decode", "queue", "compute", "answer"):
            seconds = server.metric("convoy_stage_seconds_sum", stage=stage)
            assert getattr(timings, f"{stage}_us") == round(seconds * 1e6)


def test_every_family_has_help_and_a_bounded_set_of_labels(
    server: Running, stub: rpc.ImageClassifierStub
) -> None:
    with pytest.raises(grpc.RpcError):
        stub.Classify(pb.ClassifyRequest(model="made-up-name", images=[RED]), timeout=PATIENCE)
    text = server.get("/metrics")
    assert "made-up-name" not in text
    assert all(family.documentation for family in text_string_to_metric_families(text))


def test_a_bomb_is_refused_before_a_pixel_is_decoded(models: Path, odd_images: Path) -> None:
    bomb = (odd_images / "made_bomb_30000x30000.png").read_bytes()
    with server_process(models) as server, server.stub() as stub:
        stub.Classify(ONE, timeout=PATIENCE)
        before = server.memory("VmHWM")
        with pytest.raises(grpc.RpcError, match="more than the limit"):
            stub.Classify(pb.ClassifyRequest(images=[pb.Image(encoded=bomb)]), timeout=PATIENCE)
        assert server.memory("VmHWM") - before < 50e6


def test_a_caller_that_leaves_while_decoding_frees_the_processes(models: Path) -> None:
    buffer = io.BytesIO()
    Image.new("L", (7000, 7000)).save(buffer, "PNG")
    # Seconds of work: the front envoy may take 0.7 s until it looks whether the caller is there.
    large = pb.ClassifyRequest(images=[pb.Image(encoded=buffer.getvalue())] * 16)
    with running_server(models, decode_processes=1) as server, server.stub() as stub:
        call = stub.Classify.future(large)
        server.wait_for_metric(1, "convoy_requests_in_flight")
        call.cancel()
        server.wait_for_metric(0, "convoy_requests_in_flight")
        assert stub.Classify(ONE, timeout=PATIENCE).model == "tiny"
        assert server.metric("convoy_dropped_total", reason="cancelled") == 1
        assert server.metric("convoy_stage_seconds_count", stage="decode") == 1


def test_a_stream_alone_never_fills_the_queue(models: Path) -> None:
    with running_server(models, max_queue_size=64) as server, server.stub() as stub:
        requests = [pb.ClassifyRequest(images=[RED] * 12)] * 30
        replies = list(stub.ClassifyStream(iter(requests), timeout=PATIENCE))
        assert [len(reply.response.predictions) for reply in replies] == [12] * 30
        assert server.metric("convoy_rejected_total") == 0


def test_a_caller_that_leaves_a_stream_leaves_nothing_behind(models: Path) -> None:
    with running_server(models, **FOREVER) as server, server.stub() as stub:
        hold = threading.Event()

        def requests() -> Iterator[pb.ClassifyRequest]:
            yield from [ONE] * 5
            hold.wait(PATIENCE)

        call = stub.ClassifyStream(requests())
        server.wait_for_metric(5, "convoy_queue_depth")
        call.cancel()
        hold.set()
        server.wait_for_metric(0, "convoy_queue_depth")
        server.wait_for_metric(0, "convoy_requests_in_flight")
        assert server.metric("convoy_dropped_total", reason="cancelled") == 5


def test_both_ports_take_ipv6(models: Path) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with (
        running_server(models, grpc_address="[::1]:0", http_address="[::1]:0") as server,
        server.stub() as stub,
    ):
        assert stub.Classify(ONE, timeout=PATIENCE).model == "tiny"
        assert server.metric("convoy_ready") == 1


def test_the_client_s_pings_are_allowed() -> None:
    assert KEEPALIVE_MS > LEAST_PING_MS
