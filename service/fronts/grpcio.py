"""The front that runs wherever Python runs: grpc.aio."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from time import monotonic
from typing import Any, NoReturn

import grpc

from service.carrier import CallFailed, Carrier, Stream, Unary
from service.errors import UsageError
from service.rpcs import Rpc
from service.settings import Settings

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Any  # grpc.RpcMethodHandler, which takes type arguments in its stubs only

MAX_PENDING_CALLS = 20_000
LEAST_PING_MS = 10_000


class GrpcioFront:
    """Carries the methods over grpc.aio.

    Raises: UsageError where the address cannot be had.
    """

    def __init__(self, settings: Settings) -> None:
        address, max_message_bytes = settings.grpc_address, settings.max_message_bytes
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
            services[rpc.service][rpc.method] = (
                _unary(carrier.unary(rpc)) if rpc.kind == "unary" else _stream(carrier.stream(rpc))
            )
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(*service) for service in services.items()]
        )
        await self._server.start()

    async def close(self) -> None:
        """Stop at once; calls that no handler has seen yet end with CANCELLED."""
        await self._server.stop(None)


def _unary(carry: Unary) -> Handler:
    async def handle(data: bytes, context: Context) -> bytes:
        try:
            return await carry(data, _deadline(context))
        except CallFailed as failure:
            await _abort(context, failure)

    return grpc.unary_unary_rpc_method_handler(handle)


def _stream(carry: Stream) -> Handler:
    async def handle(messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        responses = carry(messages, _deadline(context))
        try:
            async for response in responses:
                yield response
        except CallFailed as failure:
            await _abort(context, failure)
        finally:
            await responses.aclose()

    # On the wire, one request is a stream that ends after it.
    return grpc.stream_stream_rpc_method_handler(handle)


def _deadline(context: Context) -> float:
    left = context.time_remaining()
    return math.inf if left is None else monotonic() + left


async def _abort(context: Context, failure: CallFailed) -> NoReturn:
    await context.abort(grpc.StatusCode[failure.code.name], str(failure), failure.trailers)
