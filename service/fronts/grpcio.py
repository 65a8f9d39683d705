"""The front that runs wherever Python runs: grpc.aio."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from time import monotonic
from typing import Any, NoReturn

import grpc

from service.carrier import CallFailed, Carrier, Unary
from service.errors import UsageError
from service.fronts import access_log
from service.fronts.limits import MAX_CALLS
from service.rpcs import Rpc
from service.settings import Settings
from service.stream_calls import Stream, carried

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Any  # grpc.RpcMethodHandler, which takes type arguments in its stubs only

LEAST_PING_MS = 10_000


class GrpcioFront:
    """Carries the methods over grpc.aio.

    Raises: UsageError where the address cannot be had.
    """

    def __init__(self, settings: Settings) -> None:
        address = settings.grpc_address
        self._access_log = settings.access_log
        self._server = grpc.aio.server(options=_options(settings))
        try:
            self.port: int = self._server.add_insecure_port(address)
        except RuntimeError:
            raise UsageError(
                f"grpc-address: cannot listen on {address}: the port is in use or the host is "
                "not this machine's"
            ) from None

    async def start(self, carrier: Carrier, rpcs: Iterable[Rpc]) -> None:
        """Begin to take calls."""
        services: defaultdict[str, dict[str, Handler]] = defaultdict(dict)
        for rpc in rpcs:
            services[rpc.service][rpc.method] = self._handler(carrier, rpc)
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(*service) for service in services.items()]
        )
        await self._server.start()

    async def close(self) -> None:
        """Stop at once; calls that no handler has seen yet end with CANCELLED."""
        await self._server.stop(None)

    def _handler(self, carrier: Carrier, rpc: Rpc) -> Handler:
        path = f"/{rpc.service}/{rpc.method}"
        if rpc.kind == "unary":
            unary = _unary(carrier.unary(rpc), control=rpc.control)
            return grpc.unary_unary_rpc_method_handler(
                access_log.logged_unary(path, unary) if self._access_log else unary
            )
        stream = _stream(carried(carrier, rpc))
        # On the wire, one request is a stream that ends after it.
        return grpc.stream_stream_rpc_method_handler(
            access_log.logged_stream(path, stream) if self._access_log else stream
        )


def _options(settings: Settings) -> list[tuple[str, int]]:
    interval = round(settings.keepalive_interval * 1000)
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        # Two servers on one port would share its connections without a word.
        ("grpc.so_reuseport", 0),
        # Above its default of 1,000 calls that Python has not taken yet, gRPC cancels some at
        # random.
        ("grpc.server.max_pending_requests", MAX_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", MAX_CALLS),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.max_connection_idle_ms", round(settings.idle_timeout * 1000)),
        # Finds out about callers that went without a word.
        ("grpc.keepalive_time_ms", interval),
        # Measured on 1.85: it is this one that ends the connection, not keepalive_timeout_ms.
        ("grpc.http2.ping_timeout_ms", interval),
        ("grpc.keepalive_permit_without_calls", 1),
        # By default, a client that pings more often than every 5 minutes is cut off.
        ("grpc.http2.min_ping_interval_without_data_ms", LEAST_PING_MS),
    ]


def _unary(carry: Unary, *, control: bool) -> access_log.Unary:
    async def handle(data: bytes, context: Context) -> bytes:
        # Reading them takes time, and few calls need it.
        headers = dict(context.invocation_metadata() or ()) if control else {}
        try:
            return await carry(data, _deadline(context), str(headers.get("authorization", "")))
        except CallFailed as failure:
            await _abort(context, failure)

    return handle


def _stream(carry: Stream) -> access_log.Stream:
    async def handle(
        messages: AsyncIterator[bytes], context: Context
    ) -> AsyncGenerator[bytes, None]:
        responses = carry(messages, _deadline(context))
        try:
            async for response in responses:
                yield response
        except CallFailed as failure:
            await _abort(context, failure)
        finally:
            await responses.aclose()

    return handle


def _deadline(context: Context) -> float:
    now = monotonic()  # first: a pause between the two makes the deadline earlier, never later
    left = context.time_remaining()
    return math.inf if left is None else now + left


async def _abort(context: Context, failure: CallFailed) -> NoReturn:
    await context.abort(grpc.StatusCode[failure.code.name], str(failure), failure.trailers)
