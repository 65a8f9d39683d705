"""The access log of the front grpcio: an event for each call, with the fields of Envoy's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from time import monotonic
from types import TracebackType
from typing import Any
from urllib.parse import unquote

import grpc
import structlog

from service.status import Code

Context = grpc.aio.ServicerContext[Any, Any]
Unary = Callable[[bytes, Context], Awaitable[bytes]]
Stream = Callable[[AsyncIterator[bytes], Context], AsyncGenerator[bytes, None]]

log = structlog.get_logger()


def logged_unary(path: str, handle: Unary) -> Unary:
    """The handler, which notes each of its calls."""

    async def answer(data: bytes, context: Context) -> bytes:
        with _Call(path, context) as call:
            call.bytes_received = len(data)
            response = await handle(data, context)
            call.bytes_sent = len(response)
            return response

    return answer


def logged_stream(path: str, handle: Stream) -> Stream:
    """As above, for a handler of streams."""

    async def answer(
        messages: AsyncIterator[bytes], context: Context
    ) -> AsyncGenerator[bytes, None]:
        with _Call(path, context) as call:
            async with aclosing(handle(call.counted(messages), context)) as responses:
                async for response in responses:
                    call.bytes_sent += len(response)
                    yield response

    return answer


class _Call:
    """One call from its first message to its end."""

    def __init__(self, path: str, context: Context) -> None:
        self._path = path
        self._context = context
        # Now, for gRPC crashes the process when it is asked for these after the caller has left.
        self._metadata = dict(context.invocation_metadata() or ())
        self._peer = context.peer()
        self._began = monotonic()
        self.bytes_received = 0
        self.bytes_sent = 0

    async def counted(self, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The messages as they come in."""
        async for message in messages:
            self.bytes_received += len(message)
            yield message

    def __enter__(self) -> _Call:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        log.info(
            "call",
            path=self._path,
            status=self._status(error),
            milliseconds=round((monotonic() - self._began) * 1000),
            bytes_received=self.bytes_received,
            bytes_sent=self.bytes_sent,
            # ipv4:127.0.0.1:8500, with the brackets of an IPv6 address as %5B and %5D
            peer=unquote(self._peer).partition(":")[2],
            user_agent=self._metadata.get("user-agent"),
        )

    def _status(self, error: BaseException | None) -> str | None:
        """The name of the status; None where the caller left without one, as with Envoy."""
        if error is None:
            return "OK"
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            return None
        code: Any = self._context.code()  # a number, whatever the library's stubs say
        return code.name if isinstance(code, grpc.StatusCode) else Code(code).name
