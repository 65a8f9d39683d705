"""Which of the images that were given one at a time share a call, and when that call may go.

A call that is full goes at once. One that is not goes at once too, unless `calls_in_flight` others
are unanswered: then it gathers company until one of them is answered, or for MAX_WAIT. So a lone
image never waits, and the busier the server, the more images share the cost of a call.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

from convoy.client.chunks import CallLimits, Chunk, Slot

MAX_WAIT = 0.005
"""Seconds."""
ENOUGH_BYTES = 256 * 2**10
"""A call of this size is full: its own cost is small beside that of its images, and a larger one
would only make them wait for each other."""
MOST_CALLS = 64
"""Unanswered calls, full ones included; fewer than the streams a connection usually allows."""


@dataclass(slots=True, eq=False, kw_only=True)
class Joint(Chunk):
    """Images of several callers in one call."""

    top_k: int
    since: float
    """When the first image came."""
    answers: list[Any] = field(default_factory=list)
    """For each image, the future that its caller waits for."""
    deadlines: list[float] = field(default_factory=list)
    """For each image, until when."""
    task: Any = None
    """What carries the call out, once it was sent."""
    timer: Any = None
    """What ends the wait of the callers who are out of time, next at `due`."""
    due: float = math.inf

    @property
    def deadline(self) -> float:
        """That of the caller who has the most time."""
        return max(self.deadlines)

    def leave_the_departed(self) -> None:
        """Drop the images whose callers have stopped waiting."""
        present = [not answer.done() for answer in self.answers]
        self.slots = list(compress(self.slots, present))
        self.answers = list(compress(self.answers, present))
        self.deadlines = list(compress(self.deadlines, present))


class Joiner:
    """Images that wait for a call, in the calls that they will share."""

    def __init__(self, limits: CallLimits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._waiting: deque[Joint] = deque()
        self._open: dict[int, Joint] = {}
        """By `top_k`, the call that takes more images."""

    def add(self, slot: Slot, answer: Any, *, top_k: int, deadline: float) -> Joint:
        """Give an image its place. Returns: the call that it will share."""
        joint = self._open.get(top_k)
        if joint is None:
            joint = self._open[top_k] = Joint(top_k=top_k, since=self._clock())
            self._waiting.append(joint)
        joint.add(slot)
        joint.answers.append(answer)
        joint.deadlines.append(deadline)
        if joint.size >= ENOUGH_BYTES or self._limits.reached(joint, top_k):
            del self._open[top_k]
        return joint

    def next(self, in_flight: int) -> Joint | None:
        """Take a call that may go, where `in_flight` are unanswered."""
        if in_flight >= MOST_CALLS:
            return None
        for joint in self._waiting:
            if self._may_go(joint, in_flight):
                self._waiting.remove(joint)
                if self._open.get(joint.top_k) is joint:
                    del self._open[joint.top_k]
                return joint
        return None

    def wait(self, in_flight: int) -> float | None:
        """Seconds until a call may go though none is answered; None: not before one is."""
        if not self._waiting or in_flight >= MOST_CALLS:
            return None
        return max(0.0, self._waiting[0].since + MAX_WAIT - self._clock())

    def _may_go(self, joint: Joint, in_flight: int) -> bool:
        full = self._open.get(joint.top_k) is not joint
        return (
            full
            or in_flight < self._limits.calls_in_flight
            or self._clock() - joint.since >= MAX_WAIT
        )
