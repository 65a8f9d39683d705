"""The Open Inference Protocol: what it tells of the server and its models."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import grpc
import numpy as np
import pytest

from convoy.imaging import Limits
from convoy.v1 import image_classifier_pb2 as convoy_pb
from service.decoding import Decoder
from service.metrics import Metrics
from service.oip import grpc_service_pb2 as pb
from service.oip import grpc_service_pb2_grpc as rpc
from service.oip.information import Information
from service.pipeline import Pipeline
from service.shares import Shares
from tests.bundles import make_bundle, solid
from tests.servers import PATIENCE, Running, running_server
from tests.service.inference import inference_stub, pixels_request, refused

pytestmark = pytest.mark.usefixtures("front")


@pytest.fixture
def inference(server: Running) -> Iterator[rpc.GRPCInferenceServiceStub]:
    with inference_stub(server) as stub:
        yield stub


def test_server_and_model_are_ready(inference: rpc.GRPCInferenceServiceStub) -> None:
    assert inference.ServerLive(pb.ServerLiveRequest(), timeout=PATIENCE).live
    assert inference.ServerReady(pb.ServerReadyRequest(), timeout=PATIENCE).ready
    for name, number, ready in (
        ("tiny", "", True), ("tiny", "2", True), ("", "", True), ("tiny", "1", False),
        ("none", "", False),
    ):  # fmt: skip
        request = pb.ModelReadyRequest(name=name, version=number)
        assert inference.ModelReady(request, timeout=PATIENCE).ready is ready


def test_nothing_is_ready_before_the_models_are() -> None:
    async def asked() -> tuple[bool, bool, bool]:
        decoder = Decoder(Limits(1, 1), Metrics(), Shares(1), processes=1)
        pipeline = Pipeline(decoder, Metrics(), max_images=1, max_streams=1)
        information = Information(pipeline, shared_memory=False)
        return (
            (await information.server_live(pb.ServerLiveRequest())).live,
            (await information.server_ready(pb.ServerReadyRequest())).ready,
            (await information.model_ready(pb.ModelReadyRequest(name="tiny"))).ready,
        )

    assert asyncio.run(asked()) == (True, False, False)


@pytest.mark.parametrize("number", ["-1", "0", "1.5", "9" * 40, "\u0662"])
def test_versions_that_are_none(inference: rpc.GRPCInferenceServiceStub, number: str) -> None:
    request = pb.ModelMetadataRequest(name="tiny", version=number)
    code, text = refused(inference.ModelMetadata, request)
    assert code == "INVALID_ARGUMENT"
    assert "must be a positive integer" in text


def test_metadata(inference: rpc.GRPCInferenceServiceStub) -> None:
    server = inference.ServerMetadata(pb.ServerMetadataRequest(), timeout=PATIENCE)
    assert (server.name, server.version) == ("convoy", version("convoy"))
    assert {"classification", "statistics"} <= set(server.extensions)
    model = inference.ModelMetadata(pb.ModelMetadataRequest(name="tiny"), timeout=PATIENCE)
    assert (model.name, list(model.versions), model.platform) == ("tiny", ["2"], "onnxruntime_onnx")
    (images,), (scores,) = model.inputs, model.outputs
    assert (images.name, images.datatype, list(images.shape)) == (
        "images",
        "UINT8",
        [-1, 32, 32, 3],
    )
    assert (scores.name, scores.datatype, list(scores.shape)) == ("probabilities", "FP32", [-1, 3])
    assert model.properties["encoded_input"] == "encoded_images BYTES [-1]"
    request = pb.ModelMetadataRequest(name="none")
    assert refused(inference.ModelMetadata, request)[0] == "NOT_FOUND"


def test_configuration(models: Path) -> None:
    with running_server(models, max_delay_ms=1.5) as server, inference_stub(server) as inference:
        request = pb.ModelConfigRequest(name="tiny")
        config = inference.ModelConfig(request, timeout=PATIENCE).config
    assert (config.name, config.backend, config.max_batch_size) == ("tiny", "onnxruntime", 32)
    assert config.dynamic_batching.max_queue_delay_microseconds == 1500
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 1024
    assert config.dynamic_batching.priority_levels == 0
    (images,), (scores,) = config.input, config.output
    assert (images.data_type, images.format) == (pb.TYPE_UINT8, pb.ModelInput.FORMAT_NHWC)
    assert (list(images.dims), list(scores.dims)) == ([32, 32, 3], [3])
    assert scores.data_type == pb.TYPE_FP32


def test_the_index_of_the_repository(tmp_path: Path) -> None:
    make_bundle(tmp_path, name="a", version=3)
    make_bundle(tmp_path, name="b")
    with running_server(tmp_path) as server, inference_stub(server) as inference:
        for ready in (False, True):
            request = pb.RepositoryIndexRequest(ready=ready)
            index = inference.RepositoryIndex(request, timeout=PATIENCE).models
            assert [(one.name, one.version, one.state) for one in index] == [
                ("a", "3", "READY"), ("b", "1", "READY"),
            ]  # fmt: skip


def test_statistics_are_those_of_the_metrics(models: Path) -> None:
    with running_server(models) as server, inference_stub(server) as inference:
        with server.stub() as stub:
            red = convoy_pb.Image(encoded=solid("red"))
            for count in (1, 3):
                request = convoy_pb.ClassifyRequest(images=[red] * count)
                stub.Classify(request, timeout=PATIENCE)
            bad = convoy_pb.ClassifyRequest(images=[convoy_pb.Image(encoded=b"junk")])
            with pytest.raises(grpc.RpcError):
                stub.Classify(bad, timeout=PATIENCE)
        pixels = np.zeros((1, 32, 32, 3), np.uint8)
        inference.ModelInfer(pixels_request(pixels), timeout=PATIENCE)
        request = pb.ModelStatisticsRequest(name="tiny")
        (told,) = inference.ModelStatistics(request, timeout=PATIENCE).model_stats
        stats = told.inference_stats
        assert (told.name, told.version) == ("tiny", "2")
        assert (told.inference_count, told.execution_count) == (5, 3)
        assert (stats.success.count, stats.fail.count) == (3, 1)
        seconds = server.metric("convoy_stage_seconds_sum", stage="compute")
        assert stats.compute_infer.ns == round(seconds * 1e9)
        parts = (stats.queue, stats.compute_input, stats.compute_infer, stats.compute_output)
        assert stats.success.ns == sum(one.ns for one in parts)
        assert {one.count for one in parts} == {3}
        assert told.last_inference > 1.7e12


@pytest.mark.parametrize(
    ("method", "request_", "says"),
    [
        ("RepositoryIndex", pb.RepositoryIndexRequest(repository_name="x"), "leave it empty"),
        ("CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusRequest(), "not offered"),
        ("CudaSharedMemoryRegister", pb.CudaSharedMemoryRegisterRequest(), "not offered"),
    ],
)
def test_what_there_is_not_says_what_to_do(
    inference: rpc.GRPCInferenceServiceStub, method: str, request_: object, says: str
) -> None:
    code, text = refused(getattr(inference, method), request_)
    assert code == "UNIMPLEMENTED"
    assert says in text
