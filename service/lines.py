"""A queue of several lines: the line that has been served least goes first."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from heapq import heapify, heappop, heappush
from itertools import count
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Lines(Generic[T]):
    """Jobs in lines by name; for any number of threads.

    Within a line those of a higher level go first, 1 being the highest, and those of one level in
    their order.

    Start-time fair queueing: a line is charged what its jobs took, and while others wait it gets no
    more than they do. One that comes back after a pause begins with those that are there: it has
    saved nothing up.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._waiting: dict[str, list[tuple[int, int, T]]] = {}
        """For each line a heap of level, number and job."""
        self._numbers = count()
        self._charged: dict[str, float] = {}
        self._served = 0.0
        """What the line that was served last had been charged by then."""
        self._closed = False
        self._present: SimpleQueue[None] = SimpleQueue()  # its C is faster than a semaphore

    def put(self, line: str, job: T, level: int = 1) -> None:
        """Add a job to a line."""
        with self._lock:
            if line not in self._waiting:
                self._waiting[line] = []
                self._charged[line] = max(self._charged.get(line, 0.0), self._served)
            heappush(self._waiting[line], (level, next(self._numbers), job))
        self._present.put(None)

    def take(
        self, *, wait: bool = True, must_wait: Callable[[str], bool] = lambda line: False
    ) -> tuple[str, T] | None:
        """Wait for a job; returns it with the name of its line, which is to be charged.

        None where the lines are closed, where there is no job now and it is not to `wait`, and
        where each line with a job must wait.
        """
        while True:
            try:
                self._present.get(wait)
            except Empty:
                return None
            with self._lock:
                if self._closed:
                    self._present.put(None)  # for the next thread
                    return None
                if self._waiting:  # else what was present has been discarded
                    lines = [line for line in self._waiting if not must_wait(line)]
                    if lines:
                        return self._next(lines)
                    self._present.put(None)
                    return None

    def discard(self, line: str, unwanted: Callable[[T], bool]) -> None:
        """Remove jobs from a line."""
        with self._lock:
            before = self._waiting.pop(line, [])
            jobs = [one for one in before if not unwanted(one[2])]
            with suppress(Empty):
                for _ in range(len(before) - len(jobs)):
                    self._present.get(False)
            if jobs:
                heapify(jobs)
                self._waiting[line] = jobs

    def charge(self, line: str, seconds: float) -> None:
        """Note what a job of the line took."""
        with self._lock:
            self._charged[line] += seconds

    def close(self) -> list[T]:
        """From now on there is nothing to take; returns the jobs that waited."""
        with self._lock:
            self._closed = True
            rest = [job for jobs in self._waiting.values() for _, _, job in jobs]
            self._waiting.clear()
        self._present.put(None)
        return rest

    @property
    def waiting(self) -> bool:
        """Whether there are jobs."""
        return bool(self._waiting)

    def _next(self, lines: list[str]) -> tuple[str, T]:
        line = min(lines, key=self._charged.__getitem__)
        self._served = max(self._served, self._charged[line])
        if len(lines) < len(self._waiting):  # those that must wait save nothing up
            for other in self._waiting.keys() - set(lines):
                self._charged[other] = max(self._charged[other], self._served)
        jobs = self._waiting[line]
        _, _, job = heappop(jobs)
        if not jobs:
            del self._waiting[line]
        return line, job
