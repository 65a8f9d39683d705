"""Shows a challenger copies of what the champion has answered, and compares the two."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import structlog

from convoy.manifest import Manifest
from service.errors import NotServing, RequestError
from service.metrics import ModelMetrics
from service.served import ServedModel
from service.session import Rows, Scores

log = structlog.get_logger()


class Shadows:
    """Off the way of requests: nobody waits for a challenger; one that is busy is shown nothing.

    A champion with images that wait has no processor to spare; its challenger is shown nothing then
    either.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def show(
        self, champion: ServedModel, challenger: ServedModel, rows: Rows, ours: Scores
    ) -> None:
        """Have the challenger score images [N, H, W, C] that got the probabilities [N, K]."""
        if challenger.busy or champion.waiting or challenger.spec != champion.spec:
            challenger.metrics.shed += len(rows)
            return
        # A caller may write to shared memory as soon as it has its answer.
        task = asyncio.create_task(_compare(champion, challenger, rows.copy(), ours))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _compare(
    champion: ServedModel, challenger: ServedModel, rows: Rows, ours: Scores
) -> None:
    counts = challenger.metrics
    try:
        with challenger.leases:
            items = await challenger.classify(rows, deadline=math.inf)
    except NotServing:
        return  # it has been taken out meanwhile
    except RequestError as error:
        counts.errors += 1
        log.error(
            "shadow_failed",
            model=challenger.manifest.name,
            version=challenger.manifest.version,
            detail=getattr(error, "detail", str(error)),
        )
        return
    theirs = np.concatenate([item.result.result() for item in items])
    for item in items:
        counts.stages["queue"].observe(item.closed - item.enqueued)
        counts.stages["compute"].observe(item.finished - item.closed)
    note(counts, champion.manifest, challenger.manifest, ours, theirs)


def note(
    counts: ModelMetrics, champion: Manifest, challenger: Manifest, ours: Scores, theirs: Scores
) -> None:
    """Count how far the probabilities [N, K] of both agree.

    The distance of two answers is the total variation, half the sum of the differences, for
    single-label models, and the mean difference for others; 0 to 1. It takes the same labels.
    """
    counts.compared += len(ours)
    counts.agreed += sum(
        one == other
        for one, other in zip(found(champion, ours), found(challenger, theirs), strict=True)
    )
    if champion.labels == challenger.labels:
        differences = np.abs(ours.astype(np.float64) - theirs)
        single = champion.task == "single-label"
        each = differences.sum(axis=1) / 2 if single else differences.mean(axis=1)
        for distance in each.tolist():
            counts.distance.observe(distance)


def found(manifest: Manifest, scores: Scores) -> list[frozenset[str]]:
    """The labels that each row [N, K] stands for: one, or those over their thresholds."""
    labels = manifest.labels
    if manifest.task == "single-label":
        return [frozenset([labels[index]]) for index in scores.argmax(axis=1).tolist()]
    above = scores > np.asarray(manifest.cutoffs)
    return [frozenset(labels[index] for index in np.flatnonzero(row)) for row in above]
