"""One thread that runs functions for the event loop, in order.

A ThreadPoolExecutor of one does the same with two futures, a lock and a condition for every call: a
tenth of the cost of a small batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")

Job = tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]]


class Worker:
    """A thread of its own, made within a running event loop; it does not hold up the exit."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        Thread(target=self._work, name=name, daemon=True).start()

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call the function in the thread; cancelling this does not stop one that has begun."""
        result: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put((result, function, arguments))
        return await result

    def close(self) -> None:
        """Let the thread end after what it was given."""
        self._jobs.put(None)

    def _work(self) -> None:
        while job := self._jobs.get():
            result, function, arguments = job
            value, error = None, None
            try:
                value = function(*arguments)
            except BaseException as caught:
                error = caught
            with suppress(RuntimeError):  # the loop has closed: nobody waits any more
                self._loop.call_soon_threadsafe(_settle, result, value, error)
            del job, result, arguments, value, error  # what they hold is large; the next may be far


def _settle(result: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if result.done():
        return
    if error is not None:
        result.set_exception(error)
    else:
        result.set_result(value)
