"""Bare clients of GRPCInferenceService, and the requests that its tests send."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from service.oip import grpc_service_pb2 as pb
from service.oip import grpc_service_pb2_grpc as rpc
from tests.servers import PATIENCE, Running


@contextmanager
def inference_stub(server: Running) -> Iterator[rpc.GRPCInferenceServiceStub]:
    """A bare client of the generated code."""
    with grpc.insecure_channel(server.grpc_address) as channel:
        yield rpc.GRPCInferenceServiceStub(channel)


def refused(method: Any, request: Any) -> tuple[str, str]:
    """Status code and text that a request gets."""
    with pytest.raises(grpc.RpcError) as failure:
        method(request, timeout=PATIENCE)
    return failure.value.code().name, failure.value.details()


def pixels_request(pixels: NDArray[np.uint8], **fields: Any) -> pb.ModelInferRequest:
    """Pixels [N, H, W, C] as raw contents."""
    request = pb.ModelInferRequest(model_name="tiny", raw_input_contents=[pixels.tobytes()])
    request.inputs.add(name="images", datatype="UINT8", shape=pixels.shape)
    request.MergeFrom(pb.ModelInferRequest(**fields))
    return request


def typed_request(pixels: NDArray[np.uint8]) -> pb.ModelInferRequest:
    """Pixels [N, H, W, C] as numbers of the message."""
    request = pb.ModelInferRequest(model_name="tiny")
    tensor = request.inputs.add(name="images", datatype="UINT8", shape=pixels.shape)
    tensor.contents.uint_contents.extend(pixels.ravel().tolist())
    return request


def files_request(*files: bytes, **fields: Any) -> pb.ModelInferRequest:
    """Image files as raw contents."""
    data = b"".join(len(one).to_bytes(4, "little") + one for one in files)
    request = pb.ModelInferRequest(model_name="tiny", raw_input_contents=[data])
    request.inputs.add(name="encoded_images", datatype="BYTES", shape=[len(files)])
    request.MergeFrom(pb.ModelInferRequest(**fields))
    return request


def probabilities(reply: pb.ModelInferResponse) -> NDArray[np.float32]:
    """The answer [N, K]."""
    (output,), (elements,) = reply.outputs, reply.raw_output_contents
    assert (output.name, output.datatype) == ("probabilities", "FP32")
    return np.frombuffer(elements, np.float32).reshape(output.shape)


def top(classes: int) -> pb.ModelInferRequest.InferRequestedOutputTensor:
    """Ask for the top classes."""
    return pb.ModelInferRequest.InferRequestedOutputTensor(
        name="probabilities", parameters={"classification": pb.InferParameter(int64_param=classes)}
    )


def texts(elements: bytes) -> list[str]:
    """The elements of a tensor of BYTES."""
    found, at = [], 0
    while at < len(elements):
        begin = at + 4
        at = begin + int.from_bytes(elements[at:begin], "little")
        found.append(elements[begin:at].decode())
    return found
