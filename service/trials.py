"""Ends the trial of a canary that fails or dawdles more than it may."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

from service.keeper import Keeper
from service.metrics import ModelMetrics
from service.models_file import Challenger
from service.repository import Entry

LOOK_SECONDS = 1.0
WINDOW = 60
"""Looks that are judged together: the last minute."""
LEAST_REQUESTS = 50
"""Of the canary, in the window: fewer say nothing."""


class Tally(NamedTuple):
    """What a version has done since it was loaded."""

    requests: int
    errors: int
    seconds: float
    """That answered requests spent waiting for and in the network."""
    remembered: int = 0
    """Requests that the response cache answered: a new canary's has little in it yet."""

    @classmethod
    def of(cls, counts: ModelMetrics) -> Tally:
        """Read it from the counts that stand on /metrics."""
        stages = counts.stages
        return cls(
            stages["answer"].count + counts.errors,
            counts.errors,
            stages["queue"].total + stages["compute"].total,
            stages["answer"].count - stages["compute"].count,
        )

    def since(self, before: Tally) -> Tally:
        """What was done after `before`."""
        return Tally(*(now - then for now, then in zip(self, before, strict=True)))  # type: ignore[arg-type]

    @property
    def mean(self) -> float:
        """Seconds of one computed request."""
        return self.seconds / max(1, self.requests - self.errors - self.remembered)


class Trial:
    """Looks at a canary and its champion again and again."""

    def __init__(self, terms: Challenger) -> None:
        self._terms = terms
        self._looks: deque[tuple[Tally, Tally]] = deque(maxlen=WINDOW + 1)

    def look(self, champion: Tally, canary: Tally) -> str:
        """Why the trial must end, or nothing."""
        self._looks.append((champion, canary))
        first = self._looks[0]
        champion, canary = champion.since(first[0]), canary.since(first[1])
        if canary.requests < LEAST_REQUESTS:
            return ""
        rate = canary.errors / canary.requests
        if rate > self._terms.max_error_rate:
            return (
                f"{rate:.1%} of {canary.requests} requests failed, "
                f"max_error_rate is {self._terms.max_error_rate:.1%}"
            )
        slowdown = canary.mean / champion.mean if champion.mean else 0.0
        if slowdown > self._terms.max_slowdown:
            return (
                f"its requests took {slowdown:.1f} times as long as the champion's, "
                f"max_slowdown is {self._terms.max_slowdown:g}"
            )
        return ""


async def judge(keeper: Keeper) -> None:
    """Look at every canary once a second; never ends."""
    trials: dict[tuple[str, int, Challenger], Trial] = {}
    while True:
        running = {}
        for entry in keeper.repository.entries.values():
            challenger = entry.challenger
            if challenger is None or challenger.mode != "canary":
                continue
            key = (entry.name, entry.live, challenger)
            trial = running[key] = trials.get(key) or Trial(challenger)
            if reason := _look(trial, entry, challenger):
                await keeper.end_trial(entry.name, reason)
        trials = running
        await asyncio.sleep(LOOK_SECONDS)


def _look(trial: Trial, entry: Entry, challenger: Challenger) -> str:
    canary = entry.versions[challenger.version]
    return trial.look(Tally.of(entry.champion.metrics), Tally.of(canary.metrics))
