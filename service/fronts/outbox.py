"""The messages of a streamed answer on their way into Envoy."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from service.fronts.framing import frame

# What may wait for a slow reader, in bytes, before the stream works on nothing more.
MOST = 2**16


class Outbox:
    """Sends messages; those that come while Envoy takes others go together.

    Each way into Envoy and back costs two hand-overs between threads, whatever it carries.
    """

    def __init__(self, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        self._send = send
        self._waiting: list[bytes] = []
        self._size = 0
        self._taking = False
        self._room: asyncio.Future[None] | None = None
        self._error: BaseException | None = None

    async def add(self, message: bytes) -> None:
        """Take one message; returns when little enough waits.

        Raises: OSError where nobody is there to be sent to.
        """
        self._waiting.append(frame(message))
        self._size += len(self._waiting[-1])
        if not self._taking:
            self._pass_on()
        while self._size > MOST and self._error is None:
            self._room = asyncio.get_running_loop().create_future()
            await self._room
        if self._error is not None:
            raise self._error

    def rest(self) -> bytes:
        """What Envoy has not been given yet; it is the caller's to send."""
        data = b"".join(self._waiting)
        self._waiting.clear()
        self._size = 0
        return data

    def _pass_on(self) -> None:
        self._taking = True
        event = {"type": "http.response.body", "body": self.rest(), "more_body": True}
        asyncio.ensure_future(self._send(event)).add_done_callback(self._taken)

    def _taken(self, sent: asyncio.Future[None]) -> None:
        self._taking = False
        self._error = sent.exception()
        if self._waiting and self._error is None:
            self._pass_on()
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
