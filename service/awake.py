"""A clock that stands still while the process does."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

BEAT_SECONDS = 1.0
# A loop that turns late, since the machine is busy, is no process that was stopped.
MOST_SECONDS = 2 * BEAT_SECONDS


class Awake:
    """Counts the seconds for which this process has run, as `beat` says again and again.

    What is stopped (SIGSTOP, a paused container, a machine that sleeps) does not hang, and its
    work cannot be judged by a clock that went on meanwhile. So time goes on for MOST_SECONDS after
    a beat and no further.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self._seconds = 0.0

    def beat(self) -> None:
        """Say that the process runs; somebody has to every BEAT_SECONDS."""
        self._seconds, self._last = self.seconds(), self._clock()

    def seconds(self) -> float:
        """Seconds, of which only differences mean anything."""
        return self._seconds + min(self._clock() - self._last, MOST_SECONDS)


AWAKE = Awake()
"""Of this process."""
