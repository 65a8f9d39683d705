"""Every RPC that is answered, as a table for a front to carry."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from convoy.v1 import image_classifier_pb2 as pb
from convoy.v1 import model_control_pb2 as control_pb
from service.control import ModelControl
from service.health import Health
from service.methods import ImageClassifier
from service.names import SERVICE
from service.oip.table import CONTROLLED, INFERENCE, INFERRING, NESTED, OpenInference
from service.streaming import Streams
from service.wire import NONE, Nested

HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
CONTROL = control_pb.DESCRIPTOR.services_by_name["ModelControl"].full_name
REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].full_name

Kind = Literal["unary", "server_stream", "bidi_stream"]
Stream = Callable[..., AsyncGenerator[Message, None]]
Sized = tuple[Message, int]
"""A request and the bytes that it had on the wire: to ask the message for them is to write it
anew, which takes longer than to parse it."""

# The library's stubs are older than the messages of List.
_health: Any = health_pb2


@dataclass(frozen=True, slots=True)
class Rpc:
    """One method: what it takes and what answers it.

    Where `kind` is unary, `call` takes the request and answers it; else it takes an async iterator
    of requests, which yields but one where `kind` is server_stream, and gives an async generator.
    Beside it `call` takes `deadline`, of the monotonic clock.
    """

    service: str
    method: str
    kind: Kind
    request: type[Message]
    call: Callable[..., Any]
    nested: Nested = field(default_factory=dict)
    """Messages in the request that count as large where they have many fields."""
    control: bool = False
    """Whether only those may call it who have the control token."""
    sized: bool = False
    """Whether `call` takes each request with its size, as Sized."""

    @property
    def counted(self) -> bool:
        """Whether its calls stand on /metrics, where probes would outnumber all others."""
        return self.service == SERVICE or self.method in INFERRING


def rpcs(
    classifier: ImageClassifier,
    inference: OpenInference,
    control: ModelControl,
    health: Health,
    *,
    max_watches: int,
) -> Sequence[Rpc]:
    """Both protocols, their health and the reflection of all.

    Of the streams that are no work, health watches and reflection, `max_watches` may be open each.
    """
    check = health_pb2.HealthCheckRequest
    return (
        Rpc(SERVICE, "Classify", "unary", pb.ClassifyRequest, classifier.classify, sized=True),
        Rpc(
            SERVICE,
            "ClassifyStream",
            "bidi_stream",
            pb.ClassifyRequest,
            classifier.classify_stream,
            sized=True,
        ),
        Rpc(SERVICE, "ListModels", "unary", pb.ListModelsRequest, classifier.list_models),
        Rpc(SERVICE, "GetModel", "unary", pb.GetModelRequest, classifier.get_model),
        *(
            Rpc(
                INFERENCE,
                name,
                _kind(name),
                kind,
                call,
                NESTED.get(name, NONE),
                control=name in CONTROLLED,
                sized=name in INFERRING,
            )
            for name, kind, call in inference.methods()
        ),
        Rpc(CONTROL, "Load", "unary", control_pb.LoadRequest, control.load, control=True),
        Rpc(CONTROL, "Unload", "unary", control_pb.UnloadRequest, control.unload, control=True),
        Rpc(CONTROL, "Promote", "unary", control_pb.PromoteRequest, control.promote, control=True),
        Rpc(
            CONTROL, "Rollback", "unary", control_pb.RollbackRequest, control.rollback, control=True
        ),
        Rpc(HEALTH, "Check", "unary", check, health.check),
        Rpc(HEALTH, "List", "unary", _health.HealthListRequest, health.list),
        Rpc(HEALTH, "Watch", "server_stream", check, _bounded(health.watch, max_watches)),
        Rpc(
            REFLECTION,
            "ServerReflectionInfo",
            "bidi_stream",
            reflection_pb2.ServerReflectionRequest,
            _bounded(_reflect((SERVICE, CONTROL, INFERENCE, HEALTH, REFLECTION)), max_watches),
        ),
    )


def _kind(method: str) -> Kind:
    return "bidi_stream" if method == "ModelStreamInfer" else "unary"


def _bounded(call: Stream, most: int) -> Stream:
    """A stream of which so many may be open at once."""
    streams = Streams(most, "calls of this method")

    def bounded(
        requests: AsyncIterator[Message], *, deadline: float
    ) -> AsyncGenerator[Message, None]:
        return streams.bounded(call(requests, deadline=deadline))

    return bounded


def _reflect(services: Sequence[str]) -> Stream:
    async def reflect(
        requests: AsyncIterator[Message], *, deadline: float = math.inf
    ) -> AsyncGenerator[Message, None]:
        # It imports all of gRPC, which the front envoy needs for nothing else.
        from grpc_reflection.v1alpha import reflection

        # The library's stubs describe another method; it makes no use of a context.
        servicer: Any = reflection.aio.ReflectionServicer(services)
        async for response in servicer.ServerReflectionInfo(requests, None):
            yield response

    return reflect
