"""A queue of several lines: the line that has been served least goes first."""

from __future__ import annotations

from collections import deque
from queue import SimpleQueue
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Lines(Generic[T]):
    """Jobs in lines by name, each in its order; for any number of threads.

    Start-time fair queueing: a line is charged what its jobs took, and while others wait it gets no
    more than they do. One that comes back after a pause begins with those that are there: it has
    saved nothing up.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._waiting: dict[str, deque[T]] = {}
        self._charged: dict[str, float] = {}
        self._served = 0.0
        """What the line that was served last had been charged by then."""
        self._closed = False
        self._present: SimpleQueue[None] = SimpleQueue()  # its C is faster than a semaphore

    def put(self, line: str, job: T) -> None:
        """Append a job to a line."""
        with self._lock:
            if line not in self._waiting:
                self._waiting[line] = deque()
                self._charged[line] = max(self._charged.get(line, 0.0), self._served)
            self._waiting[line].append(job)
        self._present.put(None)

    def take(self) -> tuple[str, T] | None:
        """Wait for a job; returns it with the name of its line, which is to be charged.

        None where the lines are closed.
        """
        self._present.get()
        with self._lock:
            if self._closed:
                self._present.put(None)  # for the next thread
                return None
            line = min(self._waiting, key=self._charged.__getitem__)
            self._served = self._charged[line]
            jobs = self._waiting[line]
            job = jobs.popleft()
            if not jobs:
                del self._waiting[line]
        return line, job

    def charge(self, line: str, seconds: float) -> None:
        """Note what a job of the line took."""
        with self._lock:
            self._charged[line] += seconds

    def close(self) -> list[T]:
        """From now on there is nothing to take; returns the jobs that waited."""
        with self._lock:
            self._closed = True
            rest = [job for jobs in self._waiting.values() for job in jobs]
            self._waiting.clear()
        self._present.put(None)
        return rest
