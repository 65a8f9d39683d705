"""ModelInfer and ModelStreamInfer: the same answers as Classify, and what bad requests get."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from convoy.v1 import image_classifier_pb2 as convoy_pb
from service.oip import grpc_service_pb2 as pb
from service.oip import grpc_service_pb2_grpc as rpc
from service.oip.inputs import STEP
from tests.bundles import expected, make_bundle, solid
from tests.servers import PATIENCE, Running, running_server
from tests.service.busy import busy_server
from tests.service.inference import (
    files_request,
    inference_stub,
    pixels_request,
    probabilities,
    refused,
    texts,
    top,
)

pytestmark = pytest.mark.usefixtures("front")

RED, BLUE = solid("red"), solid("blue", size=50)
NOISE = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8)
# Nothing runs before this has passed.
FOREVER = {"max_delay_ms": 10_000}

Stub = rpc.GRPCInferenceServiceStub
Request = pb.ModelInferRequest


@pytest.fixture
def inference(server: Running) -> Iterator[Stub]:
    with inference_stub(server) as stub:
        yield stub


def infer(inference: Stub, request: Request) -> pb.ModelInferResponse:
    return inference.ModelInfer(request, timeout=PATIENCE)


def test_pixels_match_the_formula(inference: Stub) -> None:
    reply = infer(inference, pixels_request(NOISE, id="r-1"))
    assert (reply.model_name, reply.model_version, reply.id) == ("tiny", "2", "r-1")
    assert probabilities(reply) == pytest.approx(expected(NOISE), abs=1e-5)


def test_typed_contents_are_as_good_as_raw_ones(inference: Stub) -> None:
    request = pixels_request(NOISE)
    del request.raw_input_contents[:]
    request.inputs[0].contents.uint_contents.extend(NOISE.ravel().tolist())
    assert probabilities(infer(inference, request)) == pytest.approx(expected(NOISE), abs=1e-5)
    request = files_request(RED, BLUE)
    del request.raw_input_contents[:]
    request.inputs[0].contents.bytes_contents.extend([RED, BLUE])
    assert probabilities(infer(inference, request)).argmax(axis=1).tolist() == [0, 2]


def test_many_typed_pixels_are_converted_step_by_step(inference: Stub) -> None:
    many = np.random.default_rng(2).integers(0, 256, (200, 32, 32, 3), np.uint8)
    assert many.size > 2 * STEP
    request = typed("uint_contents", many.ravel().tolist(), pixels_request(many))
    assert probabilities(infer(inference, request)) == pytest.approx(expected(many), abs=1e-5)
    request.inputs[0].contents.uint_contents[-1] = 2**32 - 1
    code, text = refused(inference.ModelInfer, request)
    assert (code, text) == (
        "INVALID_ARGUMENT", "inputs[0] (images): uint_contents: 4294967295, must be 0 to 255",
    )  # fmt: skip


def test_typed_pixels_take_their_turn_at_the_decoder_and_their_room_in_memory(models: Path) -> None:
    black = np.zeros((1, 32, 32, 3), np.uint8)  # one byte each on the wire, four in memory
    with (
        running_server(models, max_queue_bytes=4 * black.size) as server,
        inference_stub(server) as inference,
    ):
        infer(inference, pixels_request(black))
        request = typed("uint_contents", black.ravel().tolist(), pixels_request(black))
        assert "send fewer at once" in refused(inference.ModelInfer, request)[1]
        assert server.metric("convoy_stage_seconds_count", stage="decode") == 0
    with running_server(models) as server, inference_stub(server) as inference:
        infer(inference, request)
        assert server.metric("convoy_stage_seconds_count", stage="decode") == 1


def test_what_came_of_a_request_counts_whether_or_not_it_is_still_there(models: Path) -> None:
    parts = (Request(id="x" * 8_000), files_request(RED), Request(id="1"))
    data = b"".join(one.SerializeToString() for one in parts)  # protobuf takes it for one message
    with (
        running_server(models, max_queue_bytes=10_000) as server,
        grpc.insecure_channel(server.grpc_address) as channel,
    ):
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError, match="send fewer at once"):
            call(data, timeout=PATIENCE)


def test_image_files_are_decoded_as_in_classify(inference: Stub, server: Running) -> None:
    files = [RED, BLUE, solid("#205080", size=77, file_format="JPEG")]
    with server.stub() as stub:
        images = [convoy_pb.Image(encoded=one) for one in files]
        reply = stub.Classify(convoy_pb.ClassifyRequest(images=images, top_k=3), timeout=PATIENCE)
    answer = probabilities(infer(inference, files_request(*files)))
    for row, prediction in zip(answer, reply.predictions, strict=True):
        assert {one.index: one.probability for one in prediction.classes} == dict(enumerate(row))


def test_more_images_than_a_batch_holds(models: Path) -> None:
    with running_server(models, max_batch_size=2) as server, inference_stub(server) as inference:
        many = np.concatenate([NOISE] * 3)
        assert probabilities(infer(inference, pixels_request(many))) == pytest.approx(
            expected(many), abs=1e-5
        )


def test_the_output_may_be_named(inference: Stub) -> None:
    wanted = Request.InferRequestedOutputTensor(name="probabilities")
    assert probabilities(infer(inference, pixels_request(NOISE, outputs=[wanted]))).shape == (3, 3)


@pytest.mark.parametrize(("asked", "told"), [(1, 1), (2, 2), (9, 3)])
def test_classification(inference: Stub, asked: int, told: int) -> None:
    reply = infer(inference, files_request(RED, BLUE, outputs=[top(asked)]))
    (output,), (elements,) = reply.outputs, reply.raw_output_contents
    assert (output.datatype, list(output.shape)) == ("BYTES", [2, told])
    lines = [text.split(":") for text in texts(elements)]
    assert [line[1:] for line in lines[::told]] == [["0", "red"], ["2", "blue"]]
    assert all(len(line[0].partition(".")[2]) == 6 for line in lines)


def test_requests_of_both_protocols_run_together_and_are_counted_together(models: Path) -> None:
    with (
        running_server(models, max_delay_ms=10_000, max_batch_size=2) as server,
        server.stub() as stub,
        inference_stub(server) as inference,
    ):
        first = stub.Classify.future(
            convoy_pb.ClassifyRequest(images=[convoy_pb.Image(encoded=RED)])
        )
        second = inference.ModelInfer.future(files_request(BLUE))
        assert first.result(PATIENCE).predictions[0].classes[0].label == "red"
        assert probabilities(second.result(PATIENCE)).argmax() == 2
        assert server.metric("convoy_batch_size_count") == 1
        assert server.metric("convoy_images_total") == 2
        assert server.metric("convoy_stage_seconds_count", stage="decode") == 2
        server.wait_for_metric(
            1, "grpc_server_handled_total", grpc_method="ModelInfer", grpc_code="OK"
        )


def test_a_full_queue_refuses_with_a_pushback(models: Path) -> None:
    with (
        running_server(models, max_queue_size=2, **FOREVER) as server,
        inference_stub(server) as inference,
    ):
        waiting = inference.ModelInfer.future(files_request(RED, RED))
        server.wait_for_metric(2, "convoy_queue_depth")
        with pytest.raises(grpc.RpcError) as failure:
            infer(inference, files_request(RED))
        assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert int(dict(failure.value.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
        assert not waiting.done()
        assert server.metric("convoy_rejected_total", reason="queue_full") == 1


def test_a_timeout_that_is_over_at_once_is_named(inference: Stub) -> None:
    timeout = {"timeout": pb.InferParameter(int64_param=1)}
    code, text = refused(inference.ModelInfer, files_request(RED, parameters=timeout))
    assert (code, text) == (
        "DEADLINE_EXCEEDED", "the request's timeout of 1 microseconds has passed",
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["int64_param", "uint64_param"])
def test_the_timeout_of_a_request_bounds_its_wait(tmp_path: Path, kind: str) -> None:
    timeout = {"timeout": pb.InferParameter(**{kind: 200_000})}
    with busy_server(tmp_path) as server, inference_stub(server) as inference:
        code, text = refused(inference.ModelInfer, files_request(RED, parameters=timeout))
        assert (code, text) == (
            "DEADLINE_EXCEEDED", "the request's timeout of 200,000 microseconds has passed",
        )  # fmt: skip
        server.wait_for_metric(0, "convoy_queue_depth")
        assert server.metric("convoy_dropped_total", reason="deadline") == 1
        assert server.metric("convoy_batch_size_count") == 1


def test_a_batch_does_not_wait_past_the_timeout_of_a_request(models: Path) -> None:
    timeout = {"timeout": pb.InferParameter(int64_param=1_000_000)}
    with running_server(models, **FOREVER) as server, inference_stub(server) as inference:
        assert (
            probabilities(infer(inference, files_request(BLUE, parameters=timeout))).argmax() == 2
        )


def test_the_deadline_of_the_call_bounds_a_longer_timeout(tmp_path: Path) -> None:
    timeout = {"timeout": pb.InferParameter(int64_param=2**62)}
    with busy_server(tmp_path) as server, inference_stub(server) as inference:
        with pytest.raises(grpc.RpcError) as failure:
            inference.ModelInfer(files_request(RED, parameters=timeout), timeout=0.2)
        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        server.wait_for_metric(1, "convoy_dropped_total")


@pytest.mark.parametrize("flaw", ["nan-on-black"])
def test_a_network_that_breaks_its_contract(tmp_path: Path, flaw: Any) -> None:
    make_bundle(tmp_path, flaw=flaw)
    with running_server(tmp_path) as server, inference_stub(server) as inference:
        black = np.zeros((1, 32, 32, 3), np.uint8)
        code, _ = refused(inference.ModelInfer, pixels_request(black))
        assert code == "INTERNAL"
        assert server.metric("convoy_failed_total", reason="model") == 1


def changed(change: Callable[[Request], Any], request: Request | None = None) -> Request:
    """A good request, made bad."""
    request = request or pixels_request(NOISE)
    change(request)
    return request


def shaped(*shape: int) -> Request:
    def reshape(request: Request) -> None:
        request.inputs[0].shape[:] = shape

    return changed(reshape)


def typed(field: str, values: list[Any], request: Request | None = None) -> Request:
    def write(request: Request) -> None:
        del request.raw_input_contents[:]
        getattr(request.inputs[0].contents, field).extend(values)

    return changed(write, request)


def raw(*contents: bytes, request: Request | None = None) -> Request:
    def write(request: Request) -> None:
        request.raw_input_contents[:] = contents

    return changed(write, request)


BAD = {
    "no input": (Request(model_name="tiny"), "inputs: 0, must be one: images or encoded_images"),
    "an unknown input": (
        changed(lambda one: one.inputs.add(name="x" * 999)), "inputs[1]: there is no input 'xxx"
    ),
    "both inputs": (changed(lambda one: one.inputs.add(name="encoded_images")), "inputs: 2, must"),
    "wrong datatype": (
        changed(lambda one: setattr(one.inputs[0], "datatype", "FP32")),
        "inputs[0] (images): datatype 'FP32', must be UINT8",
    ),
    "no shape": (shaped(), "inputs[0] (images): shape [], must be [N, 32, 32, 3]"),
    "no batch": (shaped(32, 32, 3), "shape [32, 32, 3], must be [N, 32, 32, 3]"),
    "other size": (shaped(3, 32, 32, 4), "shape [3, 32, 32, 4], must be [N, 32, 32, 3]"),
    "many dimensions": (shaped(*range(5000)), "shape [0, 1, 2, 3, 4, 5, 6, 7, ...], must be"),
    "negative": (shaped(-1, 32, 32, 3), "shape[0]: -1, must be 1 to 256"),
    "negative twice": (shaped(3, -32, -32, 3), "shape [3, -32, -32, 3], must be"),
    "no image": (shaped(0, 32, 32, 3), "shape[0]: 0, must be 1 to 256"),
    "too many images": (shaped(257, 32, 32, 3), "shape[0]: 257, must be 1 to 256"),
    "a lie of exabytes": (shaped(2**62, 32, 32, 3), "must be 1 to 256"),
    "a lie of one image": (
        shaped(4, 32, 32, 3), "9,216 bytes, its shape [4, 32, 32, 3] needs 12,288",
    ),
    "no contents": (raw(), "raw_input_contents: 0, must be 1"),
    "contents twice": (raw(b"", b""), "raw_input_contents: 2, must be 1"),
    "raw and typed": (
        changed(lambda one: one.inputs[0].contents.uint_contents.append(1)),
        "inputs[0] (images): contents beside raw_input_contents",
    ),
    "typed, too few": (typed("uint_contents", [1]), "1 elements in contents.uint_contents, its"),
    "typed, other field": (typed("int_contents", [1] * 9216), "0 elements in contents.uint_cont"),
    "typed, too large": (typed("uint_contents", [256] * 9216), "256, must be 0 to 255"),
    "cut length": (raw(b"\1\0", request=files_request(RED)), "2 bytes end within element 0 of 1"),
    "cut element": (
        raw(b"\xff\xff\xff\xffab", request=files_request(RED)), "6 bytes end within element 0 of 1"
    ),
    "an element missing": (raw(b"\0" * 4, request=files_request(RED, RED)), "element 1 of 2"),
    "too long": (raw(b"\0" * 9, request=files_request(RED, RED)), "1 bytes more than its 2 elem"),
    "files, typed": (
        typed("bytes_contents", [RED] * 2, files_request(RED)), "2 elements in contents.bytes_con"
    ),
    "no image file": (files_request(RED, b"junk"), "encoded_images[1]: "),
    "files with another shape": (
        changed(lambda one: one.inputs[0].shape.append(1), files_request(RED)),
        "inputs[0] (encoded_images): shape [1, 1], must be [N]",
    ),
    "unknown output": (
        changed(lambda one: one.outputs.add(name="x")), "outputs[0]: there is no output 'x'"
    ),
    "an output twice": (
        pixels_request(NOISE, outputs=[top(1), top(1)]), "probabilities is asked for 2 times"
    ),
    "no classes": (pixels_request(NOISE, outputs=[top(0)]), "0 classes, must be at least 1"),
    "negative classification": (
        pixels_request(NOISE, outputs=[top(-1)]), "parameters[classification]: must be a whole"
    ),
    "a timeout in words": (
        pixels_request(NOISE, parameters={"timeout": pb.InferParameter(string_param="soon")}),
        "parameters[timeout]: must be a whole number",
    ),
    "a long id": (pixels_request(NOISE, id="x" * 129), "id: more than 128 characters"),
    "a version that is none": (pixels_request(NOISE, model_version="1.5"), "positive integer"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_are_told_what_and_where(inference: Stub, name: str) -> None:
    request, says = BAD[name]
    code, text = refused(inference.ModelInfer, request)
    assert code == "INVALID_ARGUMENT"
    assert says in text
    assert len(text) < 300


def test_unknown_models_get_the_list(inference: Stub) -> None:
    code, text = refused(inference.ModelInfer, Request(model_name="huge"))
    assert code == "NOT_FOUND"
    assert "tiny (version 2)" in text


def many_elements() -> Request:
    request = Request()
    request.inputs.add().contents.bytes_contents.extend([b""] * 500_000)
    return request


def many_parameters(tensor: Any) -> None:
    for k in range(30_000):
        tensor.parameters[str(k)].bool_param = True


@pytest.mark.parametrize(
    "request_",
    [
        many_elements(),
        changed(lambda one: many_parameters(one.inputs[0])),
        changed(lambda one: many_parameters(one.outputs.add())),
        changed(many_parameters),
    ],
)
def test_many_small_fields_are_refused_unparsed(inference: Stub, request_: Request) -> None:
    code, text = refused(inference.ModelInfer, request_)
    assert (code, text) == (
        "INVALID_ARGUMENT",
        "the message has more than 272 fields, or a longer list of numbers than any input takes",
    )


def test_no_mutation_of_a_request_fails_inside(inference: Stub, server: Running) -> None:
    noise = random.Random(0)
    seeds = [
        files_request(
            RED, BLUE, id="x", parameters={"timeout": pb.InferParameter(int64_param=9**7)}
        ),
        pixels_request(NOISE[:1], outputs=[top(2)]),
        typed("bytes_contents", [RED], files_request(RED)),
    ]
    with grpc.insecure_channel(server.grpc_address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for k in range(600):
            data = bytearray(seeds[k % 3].SerializeToString())
            for _ in range(noise.randrange(1, 6)):
                # The structure stands in the first bytes; most of the rest is pixels.
                data[noise.randrange(min(len(data), 160))] = noise.randrange(256)
            code = call.future(bytes(data), timeout=PATIENCE).code()
            assert code.name in ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "DEADLINE_EXCEEDED")


def test_a_stream_answers_in_order_and_survives_bad_requests(inference: Stub) -> None:
    requests = [
        files_request(RED if k % 3 else b"junk", id=str(k)) if k % 5 else shaped(-(2**63))
        for k in range(100)
    ]
    replies = list(inference.ModelStreamInfer(iter(requests), timeout=PATIENCE))
    assert len(replies) == 100
    for k, reply in enumerate(replies):
        assert reply.infer_response.id == (str(k) if k % 5 else "")
        final = reply.infer_response.parameters["triton_final_response"].bool_param
        assert final == (not reply.error_message)
        assert bool(reply.error_message) == (k % 3 == 0 or k % 5 == 0)
    assert "encoded_images[0]" in replies[3].error_message
    assert probabilities(replies[1].infer_response).argmax() == 0
