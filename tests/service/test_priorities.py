"""Several priorities: who goes first, and whose flood refuses whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from convoy.v1 import image_classifier_pb2 as convoy_pb
from service.oip import grpc_service_pb2 as pb
from tests.bundles import make_bundle, solid
from tests.servers import PATIENCE, running_server
from tests.service.inference import files_request, inference_stub, refused

pytestmark = pytest.mark.usefixtures("front")

RED = solid("red")
SLOW_TO_DECODE = solid("red", 1500)
TWO = {"priority_levels": 2, "default_priority_level": 2}
# Nothing runs before this has passed, or four images are there.
FOREVER = {"max_delay_ms": 10_000, "max_batch_size": 4}


def request(priority: int, *images: bytes) -> convoy_pb.ClassifyRequest:
    encoded = [convoy_pb.Image(encoded=one) for one in images]
    return convoy_pb.ClassifyRequest(images=encoded, priority=priority)


def inference_request(**priority: Any) -> pb.ModelInferRequest:
    return files_request(RED, parameters={"priority": pb.InferParameter(**priority)})


def test_a_flood_of_a_lower_priority_is_decoded_later(models: Path) -> None:
    with running_server(models, decode_processes=1, **TWO) as server, server.stub() as stub:
        flood = [
            stub.Classify.future(request(2, *[SLOW_TO_DECODE] * 40), timeout=PATIENCE)
            for _ in range(3)
        ]
        server.wait_for_metric(len(flood), "convoy_requests_in_flight")
        assert stub.Classify(request(1, RED), timeout=PATIENCE).model == "tiny"
        assert not flood[1].done()
        assert all(call.result(PATIENCE).model == "tiny" for call in flood)


def test_a_batch_takes_what_has_the_higher_priority(models: Path) -> None:
    with running_server(models, **TWO, **FOREVER) as server, server.stub() as stub:
        low = stub.Classify.future(request(2, RED, RED, RED))
        server.wait_for_metric(3, "convoy_queue_depth")
        assert stub.Classify(request(1, RED, RED), timeout=PATIENCE).model == "tiny"
        assert not low.done()
        assert server.metric("convoy_queue_depth") == 3


def test_each_priority_has_room_of_its_own(models: Path) -> None:
    with (
        running_server(models, priority_queue_sizes="1,2", **TWO, **FOREVER) as server,
        server.stub() as stub,
    ):
        waiting = [stub.Classify.future(request(priority, RED)) for priority in (0, 2)]
        server.wait_for_metric(2, "convoy_queue_depth")
        for priority in (0, 2, 3, 2**32 - 1):  # what there is not is the default
            with pytest.raises(grpc.RpcError, match="the queue of priority 2 is full") as failure:
                stub.Classify(request(priority, RED))
            assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        waiting.append(stub.Classify.future(request(1, RED)))
        server.wait_for_metric(3, "convoy_queue_depth")
        with pytest.raises(grpc.RpcError, match="the queue of priority 1 is full"):
            stub.Classify(request(1, RED))
        assert not any(call.done() for call in waiting)


def test_the_room_of_one_model_is_that_of_each_priority(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    (tmp_path / "models.toml").write_text("[tiny]\nmax_queue_size = 1\n")
    with (
        running_server(tmp_path, priority_queue_sizes="8,8", **TWO, **FOREVER) as server,
        server.stub() as stub,
    ):
        waiting = stub.Classify.future(request(2, RED))
        server.wait_for_metric(1, "convoy_queue_depth")
        with pytest.raises(grpc.RpcError, match="the queue of priority 2 is full"):
            stub.Classify(request(2, RED))
        assert not waiting.done()


def test_the_parameter_of_the_inference_protocol(models: Path) -> None:
    with (
        running_server(models, priority_queue_sizes="1,1", **TWO, **FOREVER) as server,
        inference_stub(server) as inference,
    ):
        waiting = inference.ModelInfer.future(inference_request(int64_param=1))
        server.wait_for_metric(1, "convoy_queue_depth")
        for kind in ("int64_param", "uint64_param"):
            code, text = refused(inference.ModelInfer, inference_request(**{kind: 1}))
            assert (code, text) == ("RESOURCE_EXHAUSTED", "the queue of priority 1 is full")
        others = inference.ModelInfer.future(inference_request(uint64_param=2**64 - 1))
        server.wait_for_metric(2, "convoy_queue_depth")
        code, text = refused(inference.ModelInfer, files_request(RED))
        assert (code, text) == ("RESOURCE_EXHAUSTED", "the queue of priority 2 is full")
        for bad in ({"int64_param": -1}, {"string_param": "high"}):
            code, text = refused(inference.ModelInfer, inference_request(**bad))
            assert code == "INVALID_ARGUMENT"
            assert "parameters[priority]: must be a whole number" in text
        assert not waiting.done()
        assert not others.done()


def test_the_configuration_tells_of_the_priorities(models: Path) -> None:
    with (
        running_server(models, priority_queue_sizes="8,64", **TWO) as server,
        inference_stub(server) as inference,
    ):
        asked = pb.ModelConfigRequest(name="tiny")
        told = inference.ModelConfig(asked, timeout=PATIENCE).config.dynamic_batching
    assert (told.priority_levels, told.default_priority_level) == (2, 2)
    policies = told.priority_queue_policy
    assert {level: policies[level].max_queue_size for level in policies} == {1: 8, 2: 64}
