"""The front that runs wherever Python runs: grpc.aio."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from time import monotonic
from typing import Any, NoReturn

import grpc
import structlog
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection

from convoy.v1 import image_classifier_pb2 as pb
from service.deadlines import why_gone
from service.errors import InvalidRequest, UsageError
from service.methods import ImageClassifier
from service.metrics import Metrics
from service.status import UNKNOWN_TEXT, Code, pushback_ms, status_of
from service.wire import has_more_fields

SERVICE = pb.DESCRIPTOR.services_by_name["ImageClassifier"].full_name
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

# A message of this size is parsed without a look at it first.
SMALL_MESSAGE = 2**16
# More than a request has beside its images.
OTHER_FIELDS = 16
POLL_SECONDS = 0.02
# While draining: no call for this long means that the callers have gone elsewhere.
QUIET_SECONDS = 0.1
# After the last accepted answer: how long callers that keep coming are told UNAVAILABLE.
LAME_DUCK_SECONDS = 2.0

log = structlog.get_logger()

Context = grpc.aio.ServicerContext[Any, Any]

MAX_PENDING_CALLS = 20_000
LEAST_PING_MS = 10_000


# The library's stubs are older than the messages of List.
_messages: Any = health_pb2


class Health(health.HealthServicer):
    """grpc.health.v1 with its List method, which the library's servicer leaves out."""

    names: tuple[str, ...] = ("",)

    async def List(self, request: Any, context: Context) -> Any:
        """The status of every service and model by name; "" is the server as a whole."""
        checks = {name: health_pb2.HealthCheckRequest(service=name) for name in self.names}
        return _messages.HealthListResponse(
            statuses={name: await self.Check(check, context) for name, check in checks.items()}
        )


class GrpcioFront:
    """Carries the methods over grpc.aio.

    Raises: UsageError where the address cannot be had.
    """

    def __init__(self, address: str, metrics: Metrics, *, max_message_bytes: int) -> None:
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", max_message_bytes),
                # Two servers on one port would share its connections without a word.
                ("grpc.so_reuseport", 0),
                # Above its default of 1,000 calls that Python has not taken yet, gRPC cancels some
                # at random; admission refuses them with a reason and a pushback.
                ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
                ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_CALLS),
                # By default, a client that pings more often than every 5 minutes is cut off.
                ("grpc.http2.min_ping_interval_without_data_ms", LEAST_PING_MS),
            ]
        )
        self._metrics = metrics
        self._health = Health()
        self._draining = False
        self._max_fields = 0
        self._arrived = 0
        self._accepted = 0
        try:
            self.port: int = self._server.add_insecure_port(address)
        except RuntimeError:
            raise UsageError(
                f"grpc-address: cannot listen on {address}: the port is in use or the host is "
                "not this machine's"
            ) from None

    async def start(self, classifier: ImageClassifier, *, max_images: int) -> None:
        """Begin to take calls; health says NOT_SERVING until `announce`."""
        self._max_fields = max_images + OTHER_FIELDS
        self._server.add_generic_rpc_handlers([self._handlers(classifier)])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (SERVICE, HEALTH, reflection.SERVICE_NAME), self._server
        )
        for name in self._health.names:
            await self._health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.start()

    async def announce(self, models: list[str]) -> None:
        """Say SERVING for the server, the service and each model."""
        self._health.names = ("", SERVICE, *models)
        for name in self._health.names:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def drain(self, timeout: float) -> bool:
        """Say NOT_SERVING, answer every request that was accepted, refuse the others for a while.

        The methods refuse new requests by now. Streams that wait for nothing (health watches, idle
        callers) are not waited for.

        Returns: whether all was answered within `timeout` seconds.
        """
        self._draining = True
        await self._health.enter_graceful_shutdown()
        end = monotonic() + timeout
        while self._accepted > 0 and monotonic() < end:
            await asyncio.sleep(POLL_SECONDS)
        complete = self._accepted == 0
        end = min(end, monotonic() + LAME_DUCK_SECONDS)
        seen = -1
        while complete and seen != self._arrived and monotonic() < end:
            seen = self._arrived
            await asyncio.sleep(QUIET_SECONDS)  # in which gRPC puts the last answers on the wire
        return complete

    async def close(self) -> None:
        """Stop at once; calls that no handler has seen yet end with CANCELLED."""
        await self._server.stop(None)

    def _parse(self, kind: type[Message], data: bytes) -> Message:
        try:
            if len(data) > SMALL_MESSAGE and has_more_fields(data, self._max_fields):
                raise self._refusal(f"the message has more than {self._max_fields} fields")
            return kind.FromString(data)
        except DecodeError:
            name = kind.DESCRIPTOR.full_name
            raise self._refusal(f"the request is not a {name} message") from None

    def _refusal(self, text: str) -> InvalidRequest:
        self._metrics.rejected["invalid"] += 1
        return InvalidRequest(text)

    def _arrive(self) -> int:
        """Count a request; returns how much of it is to be answered before the end: 1, or 0."""
        self._arrived += 1
        accepted = 0 if self._draining else 1
        self._accepted += accepted
        return accepted

    def _handlers(self, classifier: ImageClassifier) -> grpc.GenericRpcHandler:
        unary, stream = self._unary, self._stream
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Classify": unary("Classify", pb.ClassifyRequest, classifier.classify),
                "ListModels": unary("ListModels", pb.ListModelsRequest, classifier.list_models),
                "GetModel": unary("GetModel", pb.GetModelRequest, classifier.get_model),
                "ClassifyStream": stream(
                    "ClassifyStream", pb.ClassifyRequest, classifier.classify_stream
                ),
            },
        )

    def _unary(
        self, name: str, request: type[Message], method: Callable[..., Awaitable[Message]]
    ) -> grpc.RpcMethodHandler[Any, Any]:
        counts = self._metrics.method("unary", SERVICE, name)

        async def handle(data: bytes, context: Context) -> bytes:
            start = monotonic()
            counts.started += 1
            accepted = self._arrive()
            deadline, code = _deadline(context, start), Code.OK
            message: Message | None = None
            try:
                message = self._parse(request, data)
                del data  # it may be large, and the message holds a copy
                response = await method(message, deadline=deadline)
                return response.SerializeToString()
            except asyncio.CancelledError:
                code = _gone(deadline)
                raise
            except Exception as error:
                code = status_of(error)[0]
                await _abort(context, error, getattr(message, "request_id", ""))
            finally:
                counts.finish(code.name, monotonic() - start)
                self._accepted -= accepted

        return grpc.unary_unary_rpc_method_handler(handle)

    def _stream(
        self,
        name: str,
        request: type[Message],
        method: Callable[..., AsyncGenerator[Message, None]],
    ) -> grpc.RpcMethodHandler[Any, Any]:
        counts = self._metrics.method("bidi_stream", SERVICE, name)

        async def handle(messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
            start = monotonic()
            counts.started += 1
            deadline, code = _deadline(context, start), Code.OK
            accepted: deque[int] = deque()

            async def requests() -> AsyncIterator[Message]:
                async for data in messages:
                    accepted.append(self._arrive())
                    yield self._parse(request, data)

            try:
                async with aclosing(method(requests(), deadline=deadline)) as responses:
                    async for response in responses:
                        yield response.SerializeToString()
                        self._accepted -= accepted.popleft()
            except (asyncio.CancelledError, GeneratorExit):
                code = _gone(deadline)
                raise
            except Exception as error:
                code = status_of(error)[0]
                await _abort(context, error)
            finally:
                counts.finish(code.name, monotonic() - start)
                self._accepted -= sum(accepted)

        return grpc.stream_stream_rpc_method_handler(handle)


def _deadline(context: Context, now: float) -> float:
    left = context.time_remaining()
    return math.inf if left is None else now + left


def _gone(deadline: float) -> Code:
    gone = why_gone(deadline)
    return Code.DEADLINE_EXCEEDED if gone == "deadline" else Code.CANCELLED


async def _abort(context: Context, error: Exception, request_id: str = "") -> NoReturn:
    code, text = status_of(error)
    if text == UNKNOWN_TEXT:
        log.exception("request_failed", request_id=request_id)
    pushback = pushback_ms(error)
    trailers = (("grpc-retry-pushback-ms", str(pushback)),) if pushback is not None else ()
    await context.abort(grpc.StatusCode[code.name], text, trailers)
