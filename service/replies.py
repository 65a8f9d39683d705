"""What callers get: models described, rows of probabilities turned into labels, stages timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic, time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convoy.v1 import image_classifier_pb2 as pb
from service.batching import Item
from service.cache import Recalled
from service.repository import Entry, Repository
from service.served import ServedModel
from service.session import Rows, Scores

# Below this many classes, sorting a Python list beats NumPy's call overhead.
FEW_CLASSES = 64

_TASKS = {"single-label": pb.TASK_SINGLE_LABEL, "multi-label": pb.TASK_MULTI_LABEL}


@dataclass(slots=True)
class Outcome:
    """What became of the images of a request; times in seconds."""

    scores: Scores
    """Probabilities [N, K], in the order of the images."""
    decode: float
    queue: float
    compute: float
    finished: float
    """When the last of them was there, of the monotonic clock."""


class Stages(NamedTuple):
    """Seconds of each stage of one request; the longest of each where it ran in several batches."""

    decode: float
    queue: float
    compute: float
    answer: float


def describe(model: ServedModel, models: Repository) -> pb.Model:
    """One of the models as ListModels and GetModel show it."""
    manifest = model.manifest
    entry = models.entries[manifest.name]
    quality = manifest.quality[0] if manifest.quality else None
    return pb.Model(
        name=manifest.name,
        version=manifest.version,
        is_default=manifest.name == models.default,
        version_labels=sorted(
            label for label, version in entry.labels.items() if version == manifest.version
        ),
        role=_role(entry, manifest.version),
        task=_TASKS[manifest.task],
        labels=manifest.labels,
        height=manifest.input.height,
        width=manifest.input.width,
        channels=manifest.input.channels,
        precision=manifest.precision,
        provider=model.provider,
        max_batch_size=model.max_batch_size,
        test_accuracy=quality.accuracy if quality else 0.0,
        test_accuracy_interval=(quality.accuracy_interval or ()) if quality else (),
        test_split=quality.split if quality else "",
        thresholds=manifest.cutoffs,
    )


def _role(entry: Entry, version: int) -> pb.Role:
    if version == entry.live:
        return pb.ROLE_LIVE
    challenger = entry.challenger
    if challenger is None or challenger.version != version:
        return pb.ROLE_NAMED
    return pb.ROLE_SHADOW if challenger.mode == "shadow" else pb.ROLE_CANARY


def outcome(items: list[Item[Rows, Scores]], decode: float) -> Outcome:
    """What came of items that have run; the longest time of each stage counts."""
    queue = compute = finished = 0.0
    for item in items:
        queue = max(queue, item.closed - item.enqueued)
        compute = max(compute, item.finished - item.closed)
        finished = max(finished, item.finished)
    scores = [item.result.result() for item in items]
    joined = scores[0] if len(scores) == 1 else np.concatenate(scores)
    return Outcome(joined, decode, queue, compute, finished)


def recall(recalled: Recalled, runs: Sequence[Outcome], filling: float) -> Outcome:
    """What came of images of which only those in `runs` were computed, after `filling` seconds."""
    scores = np.frombuffer(b"".join(recalled.answers), np.float32)
    return Outcome(
        scores.reshape(len(recalled.answers), -1),
        filling + sum(run.decode for run in runs),
        recalled.waited + sum(run.queue for run in runs),
        sum(run.compute for run in runs),
        monotonic(),
    )


def answer(
    request: pb.ClassifyRequest, model: ServedModel, scores: Scores, top_k: int
) -> pb.ClassifyResponse:
    """Top-k classes of every row of probabilities [N, K], in order."""
    manifest, labels = model.manifest, model.labels
    response = pb.ClassifyResponse(
        model=manifest.name, version=manifest.version, request_id=request.request_id
    )
    for row in scores:
        classes = response.predictions.add().classes
        for index, probability in top_classes(row, top_k):
            classes.add(index=index, label=labels[index], probability=probability)
    return response


def top_classes(row: NDArray[np.float32], k: int) -> list[tuple[int, float]]:
    """The k most probable classes of one row [K] with their probabilities; ties by index."""
    if len(row) <= FEW_CLASSES:
        scores = row.tolist()
        order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[:k]
        return [(index, scores[index]) for index in order]
    order = np.argsort(-row, kind="stable")[:k].tolist()
    return list(zip(order, row[order].tolist(), strict=True))


def observe(model: ServedModel, found: Outcome) -> Stages:
    """Observe where the time of a request went, which is answered now."""
    answer = monotonic() - found.finished
    stages = model.metrics.stages
    if found.decode:
        stages["decode"].observe(found.decode)
    if found.queue:
        stages["queue"].observe(found.queue)
    if found.compute:  # not for those that the response cache has answered
        stages["compute"].observe(found.compute)
    stages["answer"].observe(answer)
    model.metrics.images += len(found.scores)
    model.metrics.last_answer = time()
    return Stages(found.decode, found.queue, found.compute, answer)


def write_times(timings: pb.Timings, stages: Stages) -> None:
    """Write into the reply the very values that were observed."""
    timings.decode_us = round(stages.decode * 1e6)
    timings.queue_us = round(stages.queue * 1e6)
    timings.compute_us = round(stages.compute * 1e6)
    timings.answer_us = round(stages.answer * 1e6)
