"""One exchange with a caller over pyvoy: what comes of the request, and the answer to it."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import Any

from service.carrier import CallFailed
from service.fronts.framing import Frames, Headers, frame, status_headers
from service.fronts.outbox import Outbox
from service.intake import Holding, Intake, too_slow
from service.packing import ENCODINGS
from service.rest.http import Departed, Response, too_large
from service.status import Code

Message = dict[str, Any]
Receive = Callable[[], "asyncio.Future[Message]"]
Send = Callable[[Message], Awaitable[None]]

# How long a call runs before the first look whether its caller is still there, and the longest
# time between two looks. A look costs two hand-overs between threads, a tenth of a call: most calls
# should end before the first.
PROBE_SECONDS = 0.1
MAX_PROBE_SECONDS = 1.0

HEADERS: Headers = [
    (b"content-type", b"application/grpc"),
    (b"grpc-accept-encoding", b",".join(ENCODINGS)),
]
START = {"type": "http.response.start", "status": 200, "headers": HEADERS, "trailers": True}
END_OF_BODY = {"type": "http.response.body", "body": b"", "more_body": False}
OK = {
    "type": "http.response.trailers",
    "headers": [(b"grpc-status", b"0")],
    "more_trailers": False,
}


class Exchange:
    """From the request of one caller to the answer.

    pyvoy cannot bear that a future of its own is cancelled, so nobody that may be cancelled ever
    waits for one. Once a body has ended it says at once that it has ended, as often as it is
    asked, and that its sender has left only to who asks: so `watch` asks from time to time.
    """

    def __init__(self, receive: Receive, send: Send, intake: Intake) -> None:
        self._receive = receive
        self._send = send
        self._holding = Holding(intake, self._drop)
        self._dropped = False
        self._outbox: Outbox | None = None
        self._chunks: deque[bytes] = deque()
        self._ended = False
        self._asked = False
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[Any] | None = None
        self.expired = False

    async def only_message(self, frames: Frames, deadline: float) -> bytes:
        """The one message of a unary call, which is watched from then on.

        Raises: Departed, CallFailed, InvalidRequest, QueueFull.
        """
        frames.feed(await self._first())
        data = frames.take()
        self.watch(deadline)
        while not self._ended or self._chunks:
            self._holding.hold(frames.size + (len(data) if data else 0))
            chunk = await self._next()
            if data is None:
                frames.feed(chunk)
                data = frames.take()
            elif chunk:
                raise _several()
        self._holding.hold(0)
        if frames.take() is not None:
            raise _several()
        frames.end()
        if data is None:
            raise CallFailed(Code.INVALID_ARGUMENT, "the call has no message")
        return data

    async def body(self, most: int) -> bytes:
        """All of a body that is no message of gRPC; its caller is watched from then on.

        Raises: Departed, HttpError, InvalidRequest, QueueFull.
        """
        chunks = [await self._first()]
        size = len(chunks[0])
        self.watch(math.inf)
        while (not self._ended or self._chunks) and size <= most:
            self._holding.hold(size)
            chunks.append(await self._next())
            size += len(chunks[-1])
        self._holding.hold(0)
        if size > most:
            raise too_large(most)
        return b"".join(chunks)

    def messages(self, frames: Frames) -> Messages:
        """The messages of a stream. Raises in turn: CallFailed, InvalidRequest, QueueFull."""
        return Messages(self, frames)

    async def next_message(self, frames: Frames) -> bytes | None:
        """The next message of a stream; None at its end. Raises: as `messages`."""
        while (message := frames.take()) is None:
            if self._ended and not self._chunks:
                frames.end()
                return None
            self._holding.hold(frames.size)
            frames.feed(await self._next())
        self._holding.hold(0)  # and the next one has ten seconds of its own
        return message

    def watch(self, deadline: float) -> None:
        """Cancel this task when the deadline has passed or the caller has left."""
        self._task = asyncio.current_task()
        # Not at once, in whatever case: a task that cancels itself may end without an answer.
        first = max(0.0, min(PROBE_SECONDS, deadline - monotonic()))
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(first, self._look_again, deadline, 2 * PROBE_SECONDS)

    async def answer(self, message: bytes) -> None:
        """The whole of a unary answer."""
        await self._send(START)
        await self._send({"type": "http.response.body", "body": frame(message), "more_body": False})
        await self._send(OK)

    async def respond(self, response: Response) -> None:
        """The whole of an answer that is none of gRPC."""
        start = {"type": "http.response.start", "status": response.status}
        with suppress(OSError):  # nobody is there
            await self._send({**start, "headers": response.lines})
            await self._send({**END_OF_BODY, "body": response.body})

    async def add(self, message: bytes) -> None:
        """One message of a streamed answer. Raises: OSError where nobody is there."""
        if self._outbox is None:
            self._outbox = Outbox(self._send)
            await self._send(START)
        await self._outbox.add(message)

    async def end(self) -> None:
        """End a streamed answer."""
        if self._outbox is None:
            await self._send(START)
        await self._end_body()
        await self._send(OK)

    async def fail(self, failure: CallFailed) -> None:
        """End the call with a status that is not OK."""
        status = status_headers(failure)
        try:
            if self._outbox is None:
                await self._send({**START, "headers": HEADERS + status, "trailers": False})
                await self._send(END_OF_BODY)
            else:
                await self._end_body()
                await self._send({**OK, "headers": status})
        except OSError:
            pass  # nobody is there

    async def _end_body(self) -> None:
        rest = self._outbox.rest() if self._outbox else b""
        await self._send({**END_OF_BODY, "body": rest})

    def close(self) -> None:
        """Watch no longer, and count nothing any more."""
        self._holding.close()
        self._chunks.clear()
        self._task = None
        if self._timer is not None:
            self._timer.cancel()

    async def _first(self) -> bytes:
        """The first part of what comes, which in most calls is all. Raises: Departed."""
        event = await self._receive()
        if event["type"] == "http.disconnect":
            raise Departed
        self._ended = not event["more_body"]
        chunk: bytes = event["body"]
        return chunk

    async def _next(self) -> bytes:
        """The next part, or nothing at the end. Raises: QueueFull where it took too long."""
        while not (self._chunks or self._ended or self._dropped):
            self._ask()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._dropped:  # what has come since is not all
            raise too_slow()
        return self._chunks.popleft() if self._chunks else b""

    def _drop(self) -> None:
        self._dropped = True
        self._chunks.clear()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _look_again(self, deadline: float, seconds: float) -> None:
        left = deadline - monotonic()
        if left <= 0.0:
            self.expired = True
            self._cancel()
            return
        if not self._chunks:
            self._ask()
        # Each time twice as long: so a short call costs few of these, and a long one few a second.
        later = min(2 * seconds, MAX_PROBE_SECONDS)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(min(seconds, left), self._look_again, deadline, later)

    def _ask(self) -> None:
        if not self._asked:
            self._asked = True
            # pyvoy's own, but for requests without a body: those get something else to wait for.
            asyncio.ensure_future(self._receive()).add_done_callback(self._take)

    def _take(self, event: asyncio.Future[Message]) -> None:
        self._asked = False
        message = event.result()
        if message["type"] == "http.disconnect":
            self._cancel()
            return
        if message["body"]:
            self._chunks.append(message["body"])
        self._ended = not message["more_body"]
        self._wake()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None


def _several() -> CallFailed:
    return CallFailed(Code.INVALID_ARGUMENT, "the call has more than one message")


class Messages:
    """Those of a stream, as they come."""

    def __init__(self, call: Exchange, frames: Frames) -> None:
        self._call, self._frames = call, frames

    def __aiter__(self) -> Messages:
        return self

    async def __anext__(self) -> bytes:
        message = await self._call.next_message(self._frames)
        if message is None:
            raise StopAsyncIteration
        return message
