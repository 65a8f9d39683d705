"""The access log of the front grpcio, where a caller has left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from service.fronts.access_log import logged_stream


class Departing:
    """The context of a call whose caller leaves: gRPC must not be asked for it any more."""

    gone = False

    def peer(self) -> str:
        assert not self.gone
        return "ipv6:%5B::1%5D:50"

    def invocation_metadata(self) -> list[tuple[str, str]]:
        assert not self.gone
        return [("user-agent", "somebody")]


async def leave(messages: AsyncIterator[bytes], context: Any) -> AsyncGenerator[bytes, None]:
    async for _ in messages:
        context.gone = True
        raise asyncio.CancelledError
        yield b""


def test_caller_that_has_left_is_logged_as_it_was() -> None:
    async def messages() -> AsyncIterator[bytes]:
        yield b"12345"

    async def call() -> None:
        handle = logged_stream("/a/b", leave)
        with pytest.raises(asyncio.CancelledError):
            await anext(handle(messages(), Departing()))

    with capture_logs() as events:
        asyncio.run(call())
    (event,) = events
    assert (event["peer"], event["user_agent"]) == ("[::1]:50", "somebody")
    assert (event["status"], event["bytes_received"]) == (None, 5)
