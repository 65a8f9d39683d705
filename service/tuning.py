"""Which plan runs a network fastest on this GPU: measured once, then remembered in a file."""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import structlog

from service.devices import Plan
from service.errors import RequestError, UnfitError
from service.session import Rows, Session

# Each may help or harm, or be refused: CUDA graphs by networks with loops, for example. They come
# first, since the best of the others depends on them.
CHANGES: tuple[dict[str, Any], ...] = ({"graphs": True}, {"search": "EXHAUSTIVE"}, {"nhwc": True})
# A plan must be so much faster before it counts: less is noise.
GAIN = 0.98
RUNS = 15

log = structlog.get_logger()


def choose(measure: Callable[[Plan], float]) -> Plan:
    """The plan with the lowest measure, changed in one way after the other.

    Raises: what `measure` raises for the plain plan; other plans may be refused.
    """
    best = Plan()
    lowest = measure(best)
    for change in CHANGES:
        plan = replace(best, **change)
        if plan.search == "EXHAUSTIVE" and not plan.graphs:
            continue
        try:
            found = measure(plan)
        except (UnfitError, RequestError) as error:
            reason = getattr(error, "detail", str(error))
            log.info("plan_refused", **asdict(plan), reason=reason)
            continue
        log.debug("plan_measured", **asdict(plan), measure=found, lowest=lowest)
        if found < GAIN * lowest:
            best, lowest = plan, found
    return best


def cost(session: Session, images: Rows) -> float:
    """Seconds for the batch [N, H, W, C] times those for its first image.

    The product, so that halving either counts the same: one decides throughput, one latency. The
    two take turns, as sizes do in a service: without CUDA graphs, each change of size has cuDNN
    plan every convolution anew.
    """
    batches = images, images[:1]
    for batch in batches:  # memory is allocated, CUDA graphs are recorded
        session.run(batch)
    rounds = [[_seconds(session, batch) for batch in batches] for _ in range(RUNS)]
    return math.prod(statistics.median(times) for times in zip(*rounds, strict=True))


def _seconds(session: Session, images: Rows) -> float:
    start = perf_counter()
    session.run(images)
    return perf_counter() - start


class Memory:
    """Plans in a folder, one file for each of whatever `circumstances` a plan depends on."""

    def __init__(self, folder: Path, **circumstances: object) -> None:
        self._circumstances = circumstances
        key = json.dumps(circumstances, sort_keys=True, default=str)
        self._file = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"

    def recall(self) -> Plan | None:
        """The plan that was kept; None where there is none, or it cannot be read."""
        try:
            return Plan(**json.loads(self._file.read_text())["plan"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, plan: Plan) -> None:
        """Write the plan down; where that is not possible, the log says so."""
        text = json.dumps({"circumstances": self._circumstances, "plan": asdict(plan)}, indent=1)
        part = self._file.with_suffix(f".{os.getpid()}")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(text + "\n")
            part.replace(self._file)
        except OSError as error:
            log.warning("plan_not_kept", folder=str(self._file.parent), reason=error.strerror)


def filled(images: Rows, count: int) -> Rows:
    """So many images [count, H, W, C], the given ones again and again."""
    return np.resize(images, (count, *images.shape[1:]))
