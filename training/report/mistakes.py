"""Where a classifier goes wrong: the photos it is surest about, and the classes it mixes up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convoy.bundle import Manifest, Quality
from training.datasets import Split
from training.metrics import Probabilities, decide
from training.report.pictures import photo

SHOWN_MISTAKES = 12
SHOWN_CONFUSIONS = 8


@dataclass(frozen=True, slots=True)
class Mistake:
    """A photo with what was said of it, and what is right."""

    picture: str
    """A data URI."""
    said: str
    """`says cat 98.0%`; where several labels may be right, what is missing or too much."""
    right: str


@dataclass(frozen=True, slots=True)
class Confusion:
    """Images of one class that were taken for another."""

    right: str
    predicted: str
    images: int
    share: float
    """Of the images of the right class."""


def confident_mistakes(manifest: Manifest, split: Split, answers: Probabilities) -> list[Mistake]:
    """The photos that are classified wrongly with the highest probability, that first."""
    several = split.labels.ndim == 2
    truth, given = decide(split.labels, answers, manifest.thresholds)
    # Of several labels, one that is missing is a mistake too; of one, it is the same mistake twice.
    wrong = given != truth if several else given & ~truth
    sure = np.where(wrong, np.where(given, answers, 1 - answers), -1.0)
    worst = np.argsort(-sure.max(axis=1), kind="stable")[:SHOWN_MISTAKES]
    mistakes = []
    for row in worst[sure[worst].max(axis=1) >= 0]:
        index = int(sure[row].argmax())
        verb = "misses" if truth[row, index] else "adds" if several else "says"
        said = f"{verb} {manifest.labels[index]} {answers[row, index]:.1%}"
        right = ", ".join(manifest.labels[place] for place in np.flatnonzero(truth[row]))
        mistakes.append(Mistake(photo(split.images[row]), said, right or "nothing"))
    return mistakes


def frequent_confusions(labels: Sequence[str], quality: Quality) -> list[Confusion]:
    """The pairs of classes that are mixed up most often."""
    if not quality.confusion:
        return []
    counts = np.array(quality.confusion)
    images = counts.sum(axis=1)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:SHOWN_CONFUSIONS]
    pairs = [divmod(int(cell), len(labels)) for cell in order]
    return [
        Confusion(labels[i], labels[j], int(counts[i, j]), float(counts[i, j] / images[i]))
        for i, j in pairs
        if counts[i, j]
    ]
