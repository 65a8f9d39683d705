"""One call to a server of the Open Inference Protocol, and what is told in return, as text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.text_format import MessageToString
from grpc_health.v1 import health_pb2

from service.oip import grpc_service_pb2 as pb
from tests.service.inference import texts

SERVICES = (
    pb.DESCRIPTOR.services_by_name["GRPCInferenceService"],
    health_pb2.DESCRIPTOR.services_by_name["Health"],
)
SECONDS = 20.0
# What no two servers and no two moments have in common.
MEASURED = {"ns", "last_inference"}


@dataclass(frozen=True)
class Call:
    """A request, for a stream several; bytes are sent as they are."""

    method: str
    request: Message | bytes | tuple[Message, ...]
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Told:
    """The status code, and the answer or the error."""

    code: str
    text: str


def ask(channel: grpc.Channel, call: Call) -> Told:
    """Make a call; an answer is told whole, but for what is measured."""
    try:
        return Told("OK", _answer(channel, call))
    except grpc.RpcError as error:
        return Told(error.code().name, error.details())


def _answer(channel: grpc.Channel, call: Call) -> str:
    service, method = _method(call.method)
    path = f"/{service}/{call.method}"
    read = _reader(method)
    options = {"timeout": SECONDS, "metadata": call.metadata}
    if isinstance(call.request, tuple):
        send = channel.stream_stream(path, response_deserializer=read)
        replies = send(map(_bytes, call.request), **options)
        return "; ".join(map(described, replies)) or "no reply"
    send = channel.unary_unary(path, response_deserializer=read)
    return described(send(_bytes(call.request), **options))


def _method(name: str) -> tuple[str, MethodDescriptor | None]:
    for service in SERVICES:
        if method := service.methods_by_name.get(name):
            return service.full_name, method
    return SERVICES[0].full_name, None


def _reader(method: MethodDescriptor | None) -> Any:
    if method is None:
        return None
    module = health_pb2 if method.full_name.startswith("grpc.health") else pb
    return getattr(module, method.output_type.name).FromString


def _bytes(request: Message | bytes) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()


def described(reply: Message) -> str:
    """A reply in one line."""
    if isinstance(reply, pb.ModelInferResponse):
        return _inference(reply)
    if isinstance(reply, pb.ModelStreamInferResponse):
        error = [f"error {json.dumps(reply.error_message)}"] if reply.error_message else []
        return ", ".join(filter(None, [_inference(reply.infer_response), *error]))
    _forget_measures(reply)
    return MessageToString(reply, as_one_line=True) or "{}"


def _inference(reply: pb.ModelInferResponse) -> str:
    parts = [f"{reply.model_name} {reply.model_version}"] if reply.model_name else []
    parts += [f"id {reply.id!r}"] if reply.id else []
    parts += [f"{name} = {_value(one)}" for name, one in sorted(reply.parameters.items())]
    for index, output in enumerate(reply.outputs):
        raw = reply.raw_output_contents[index] if reply.raw_output_contents else b""
        shape = list(output.shape)
        parts.append(f"{output.name} {output.datatype} {shape} {_elements(output, raw)}")
        parts += [f"{name} = {_value(one)}" for name, one in sorted(output.parameters.items())]
    return ", ".join(parts)


def _value(parameter: pb.InferParameter) -> Any:
    return getattr(parameter, parameter.WhichOneof("parameter_choice") or "", None)


def _elements(output: pb.ModelInferResponse.InferOutputTensor, raw: bytes) -> str:
    if not raw:
        return "elsewhere"
    if output.datatype == "BYTES":
        return " ".join(texts(raw))
    return " ".join(f"{one:.3f}" for one in np.frombuffer(raw, np.float32))


def _forget_measures(message: Message) -> None:
    for field, value in message.ListFields():
        if field.name in MEASURED:
            message.ClearField(field.name)
        elif isinstance(value, Message):
            _forget_measures(value)
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            _forget_all(value)


def _forget_all(messages: Iterable[Message]) -> None:
    for one in messages:
        _forget_measures(one)
