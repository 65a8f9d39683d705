"""Ends the trial of a canary that fails or dawdles more than it may, or of who hangs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

import structlog

from service.keeper import Keeper
from service.metrics import ModelMetrics
from service.models_file import Challenger

log = structlog.get_logger()

Key = tuple[str, int, Challenger]

LOOK_SECONDS = 1.0
WINDOW = 60
"""Looks that are judged together: the last minute."""
LEAST_REQUESTS = 50
"""Of one version, in the window: fewer say nothing."""


class Tally(NamedTuple):
    """What a version has done since it was loaded."""

    requests: int
    errors: int
    seconds: float
    """That answered requests spent waiting for and in the network."""
    remembered: int = 0
    """Requests that the response cache answered: a new canary's has little in it yet."""
    late: int = 0
    """Requests whose deadline passed before they were answered."""

    @classmethod
    def of(cls, counts: ModelMetrics) -> Tally:
        """Read it from the counts that stand on /metrics."""
        stages = counts.stages
        return cls(
            stages["answer"].count + counts.errors + counts.dropped["deadline"],
            counts.errors,
            stages["queue"].total + stages["compute"].total,
            stages["answer"].count - stages["compute"].count,
            counts.dropped["deadline"],
        )

    def since(self, before: Tally) -> Tally:
        """What was done after `before`."""
        return Tally(*(now - then for now, then in zip(self, before, strict=True)))  # type: ignore[arg-type]

    @property
    def mean(self) -> float:
        """Seconds of one computed request."""
        computed = self.requests - self.errors - self.late - self.remembered
        return self.seconds / max(1, computed)

    @property
    def lateness(self) -> float:
        """The share of requests that came too late."""
        return self.late / max(1, self.requests)


class Trial:
    """Looks at a canary and its champion again and again."""

    def __init__(self, terms: Challenger) -> None:
        self._terms = terms
        self._looks: deque[tuple[Tally, Tally]] = deque(maxlen=WINDOW + 1)

    def look(self, champion: Tally, canary: Tally) -> str:
        """Why the trial must end, or nothing."""
        self._looks.append((champion, canary))
        first = self._looks[0]
        recent, canary = champion.since(first[0]), canary.since(first[1])
        if recent.requests >= LEAST_REQUESTS:  # else it is taken to be as it was on the whole
            champion = recent
        if canary.requests < LEAST_REQUESTS:
            return ""
        # Where callers are in such a hurry that the champion is late, too, that is no fault.
        late = max(0.0, canary.lateness - champion.lateness)
        rate = canary.errors / canary.requests + late
        if rate > self._terms.max_error_rate:
            return (
                f"{rate:.1%} of {canary.requests} requests failed"
                f"{f' ({late:.1%} late, more than of the champion)' if late else ''}, "
                f"max_error_rate is {self._terms.max_error_rate:.1%}"
            )
        slowdown = canary.mean / champion.mean if champion.mean else 0.0
        if slowdown > self._terms.max_slowdown:
            return (
                f"its requests took {slowdown:.1f} times as long as the champion's, "
                f"max_slowdown is {self._terms.max_slowdown:g}"
            )
        return ""


async def judge(keeper: Keeper, compute_timeout: float) -> None:
    """Look at every challenger once a second; never ends.

    One with a batch that computes for longer than `compute_timeout` seconds is taken out, and
    closed, and so is one whose trial was ended by somebody else.
    """
    trials: dict[Key, Trial] = {}
    while True:
        trials = _look(keeper, trials)
        for model in keeper.models:
            if model.tried and model.hangs(compute_timeout):
                manifest = model.manifest
                log.error(
                    "challenger_hangs",
                    model=manifest.name,
                    version=manifest.version,
                    timeout_seconds=compute_timeout,
                )
                keeper.take_out(model, f"a batch computed for more than {compute_timeout:g} s")
                await model.close()
        await asyncio.sleep(LOOK_SECONDS)


def _look(keeper: Keeper, trials: Mapping[Key, Trial]) -> dict[Key, Trial]:
    """End the trials of canaries that must end; those that go on."""
    running = {}
    for entry in keeper.repository.entries.values():
        challenger = entry.challenger
        if challenger is None or challenger.mode != "canary":
            continue
        key = (entry.name, entry.live, challenger)
        trial = trials.get(key) or Trial(challenger)
        canary = entry.versions[challenger.version]
        reason = trial.look(Tally.of(entry.champion.metrics), Tally.of(canary.metrics))
        if reason:
            keeper.take_out(canary, reason)
        else:
            running[key] = trial
    return running
