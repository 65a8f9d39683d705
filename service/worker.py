"""Threads that run functions for the event loop.

A ThreadPoolExecutor does the same with two futures, a lock and a condition for every call: a tenth
of the cost of a small batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Thread
from time import thread_time
from typing import Any, TypeVar

from service.errors import NotServing
from service.lines import Lines

T = TypeVar("T")

CLOSED = "closed before this call began"

Job = tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]]


class Worker:
    """Threads of its own, made within a running event loop; they do not hold up the exit."""

    def __init__(self, name: str, *, threads: int = 1) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: Lines[Job] = Lines()
        self._closed = False
        self.seconds = 0.0
        """Processor time that its threads have spent on calls, in all."""
        self._threads = [
            Thread(target=self._work, name=f"{name}-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def run(
        self, function: Callable[..., T], *arguments: Any, line: str = "", level: int = 1
    ) -> asyncio.Future[T]:
        """Call the function in a thread: by level and in order within a line, the lines in turn.

        Cancelling the future does not stop one that has begun. It ends with NotServing where the
        worker is closed first.
        """
        result: asyncio.Future[T] = self._loop.create_future()
        if self._closed:
            result.set_exception(NotServing(CLOSED))
        else:
            self._jobs.put(line, (result, function, arguments), level)
        return result

    def withdraw(self, calls: Sequence[asyncio.Future[Any]], *, line: str = "") -> None:
        """Cancel calls of a line, and let go of those that have not begun."""
        for call in calls:
            call.cancel()
        if any(call.cancelled() for call in calls):
            self._jobs.discard(line, lambda job: job[0].cancelled())

    def close(self) -> None:
        """Let the threads end, each after what it has begun; what waits never runs."""
        self._closed = True
        for result, _, _ in self._jobs.close():
            _settle(result, None, NotServing(CLOSED))

    def _work(self) -> None:
        while taken := self._jobs.take():
            line, (result, function, arguments) = taken
            value, error = None, None
            begin = thread_time()
            try:
                value = function(*arguments)
            except BaseException as caught:
                error = caught
            spent = thread_time() - begin
            self.seconds += spent
            self._jobs.charge(line, spent)
            with suppress(RuntimeError):  # the loop has closed: nobody waits any more
                self._loop.call_soon_threadsafe(_settle, result, value, error)
            # What they hold is large, and the next may be far.
            del taken, result, function, arguments, value, error


def _settle(result: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if result.done():
        return
    if error is not None:
        result.set_exception(error)
    else:
        result.set_result(value)
