"""Answering a stream: several requests at once, the answers in the order of the requests.

Not compiled: mypyc knows no asynchronous generators.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Generic, NamedTuple, TypeVar

from service.errors import TooManyStreams

# Streams are for staying open: room comes back less often than in a queue.
RETRY_SECONDS = 1.0

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class Claim(NamedTuple):
    """What a request of a stream says of itself, before it is looked at."""

    model: str
    version: int
    label: str
    images: int
    size: int
    """Bytes."""
    priority: int


class Window(Generic[Request, Answer]):
    """Works on requests of a stream as they come, while their shares sum up to `most` at most.

    A request larger than that is worked on alone. While the window is full nothing is read, so the
    transport's flow control holds the sender back.
    """

    def __init__(
        self,
        answer: Callable[[Request], Awaitable[Answer]],
        share: Callable[[Request], float],
        most: float,
    ) -> None:
        self._answer = answer
        self._share = share
        self._most = most
        self._held = 0.0
        self._tasks: deque[tuple[asyncio.Task[Answer], float]] = deque()
        self._changed = asyncio.Event()

    async def answers(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Answer, None]:
        """Yield one answer for each request. Closing this ends the work on all of them."""
        reader = asyncio.create_task(self._read(requests))
        reader.add_done_callback(lambda _: self._changed.set())
        try:
            while self._tasks or not reader.done():
                if not self._tasks:
                    await self._change()
                    continue
                yield await self._tasks[0][0]
                self._held -= self._tasks.popleft()[1]
                self._changed.set()
            reader.result()
        finally:
            reader.cancel()
            for task, _ in self._tasks:
                task.cancel()
            del reader  # an error of it holds this frame

    async def _read(self, requests: AsyncIterator[Request]) -> None:
        async for request in requests:
            share = self._share(request)
            while self._tasks and self._held + share > self._most:
                await self._change()
            self._held += share
            self._tasks.append((asyncio.ensure_future(self._answer(request)), share))
            self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class Streams:
    """Streams of one kind, `most` of which may be open at once; errors call them `name`."""

    def __init__(
        self, most: int, name: str, *, on_refusal: Callable[[], object] = lambda: None
    ) -> None:
        self._most = most
        self._name = name
        self._on_refusal = on_refusal
        self._open = 0

    async def bounded(self, answers: AsyncGenerator[Answer, None]) -> AsyncGenerator[Answer, None]:
        """The same, while there is room. Raises: TooManyStreams, before it is begun."""
        if self._open >= self._most:
            self._on_refusal()
            text = f"{self._open:,} {self._name} are open, the most there may be"
            raise TooManyStreams(text, retry_after=RETRY_SECONDS)
        self._open += 1
        try:
            async with aclosing(answers):
                async for one in answers:
                    yield one
        finally:
            self._open -= 1
