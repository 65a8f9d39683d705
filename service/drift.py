"""How far live predictions have moved from those on the test split, the manifest's baseline.

The measure is the population stability index (PSI) of two histograms: Jeffreys' divergence
(Proc. R. Soc. A 186, 1946) under the name that it has in credit scoring (Siddiqi, Credit Risk
Scorecards, 2006), with its rule of thumb: below 0.1 nothing has changed, above 0.25 much has.
Without any change, `n` predictions against a baseline of `m` give (bins - 1) (1/n + 1/m) on average
(Yurdakul and Naranjo, J. Risk Model Validation 14, 2020). Hence `LEAST` and `MOST_BINS`: chance
alone stays below 0.05, and as much again for a baseline of as few images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from convoy.manifest import Baseline, Manifest

LEAST = 1000
"""Predictions in the window without which nothing is said."""
MOST_BINS = 50
"""Where a single-label model has more classes, neighbours share a bin."""
SMOOTHING = 5e-4
"""Added to each share, as the logarithm needs: half an image of a thousand."""
SLOTS = 12
"""Parts of the window: one ends, and is forgotten, at a time."""

Scores = NDArray[np.float32]
Proportions = NDArray[np.float64]
Counts = NDArray[np.int64]


def stability_index(live: Proportions, baseline: Proportions) -> Proportions:
    """Sum of (p - q) ln(p / q) over the last axis, the bins, of shares [..., B] that sum to 1."""
    p, q = ((one + SMOOTHING) / (1 + one.shape[-1] * SMOOTHING) for one in (live, baseline))
    index: Proportions = ((p - q) * np.log(p / q)).sum(axis=-1)
    return index


class Window:
    """Counts [cells] of the last `seconds`, in `SLOTS` parts: the oldest is forgotten as a whole.

    A window of time and not of a number of predictions: at a thousand a second those would be one
    caller's album, at ten an hour last week's. One thread adds, any thread reads.
    """

    def __init__(self, cells: int, seconds: float, clock: Callable[[], float]) -> None:
        self._slot_seconds = seconds / SLOTS
        self._clock = clock
        self._counts = np.zeros((SLOTS, cells), np.int64)
        self._numbers = np.full(SLOTS, -SLOTS)

    def slot(self) -> Counts:
        """The counts [cells] of now, to be added to."""
        number = int(self._clock() / self._slot_seconds)
        index = number % SLOTS
        if self._numbers[index] != number:
            self._counts[index] = 0
            self._numbers[index] = number
        counts: Counts = self._counts[index]
        return counts

    def total(self) -> Counts:
        """The counts [cells] of the whole window."""
        newest = int(self._clock() / self._slot_seconds)
        total: Counts = self._counts[self._numbers > newest - SLOTS].sum(axis=0)
        return total


class Bins:
    """A histogram of the predictions."""

    def __init__(self, baseline: Sequence[float]) -> None:
        self._baseline = np.asarray(baseline)
        self.cells = len(self._baseline)

    def drift(self, counts: Counts, predictions: int) -> float:
        """Their PSI, of counts [cells]."""
        return float(stability_index(counts / predictions, self._baseline))


class Confidence(Bins):
    """The highest probability, of any model."""

    def __init__(self, confidence_shares: Sequence[float]) -> None:
        super().__init__(confidence_shares)
        self._inner = (np.arange(1, self.cells) / self.cells).astype(np.float32)

    def count(self, scores: Scores) -> Counts:
        """Rows [N, K] by highest probability, in bins of equal width from 0 to 1: [cells]."""
        place = np.searchsorted(self._inner, scores.max(axis=1), side="right")
        return np.bincount(place, minlength=self.cells)


class Classes(Bins):
    """The most probable class, of a single-label model."""

    def __init__(self, class_shares: Sequence[float]) -> None:
        self._joined = -(-len(class_shares) // MOST_BINS)
        starts = range(0, len(class_shares), self._joined)
        super().__init__(np.add.reduceat(class_shares, starts).tolist())

    def count(self, scores: Scores) -> Counts:
        """Rows [N, K] by class, neighbours taken together: [cells]."""
        return np.bincount(scores.argmax(axis=1) // self._joined, minlength=self.cells)


class Labels:
    """The labels that are given, of a multi-label model: each is a histogram of yes and no."""

    def __init__(self, label_shares: Sequence[float], thresholds: Sequence[float]) -> None:
        self.cells = len(label_shares)
        self._thresholds = np.asarray(thresholds)
        self._baseline = _yes_and_no(np.asarray(label_shares))

    def count(self, scores: Scores) -> Counts:
        """How many of the rows [N, K] are given each label: [K]."""
        counts: Counts = (scores > self._thresholds).sum(axis=0)
        return counts

    def drift(self, counts: Counts, predictions: int) -> float:
        """The PSI of the label that has changed most."""
        return float(stability_index(_yes_and_no(counts / predictions), self._baseline).max())


class Drift:
    """Watches the answers of one model."""

    def __init__(
        self,
        manifest: Manifest,
        baseline: Baseline,
        *,
        window: float,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._confidence = Confidence(baseline.confidence_shares)
        self._classes = _classes(manifest, baseline)
        self._window = Window(
            self._confidence.cells + (self._classes.cells if self._classes else 0), window, clock
        )

    def observe(self, results: Sequence[Scores | Exception]) -> None:
        """Count the answers [n, K] of one batch; those that are exceptions are none."""
        parts = [one for one in results if not isinstance(one, Exception)]
        if not parts:
            return
        scores = parts[0] if len(parts) == 1 else np.concatenate(parts)
        counts = self._window.slot()
        counts[: self._confidence.cells] += self._confidence.count(scores)
        if self._classes is not None:
            counts[self._confidence.cells :] += self._classes.count(scores)

    def read(self) -> tuple[int, dict[str, float]]:
        """Predictions in the window, and where they are enough, the PSI of what is watched."""
        total = self._window.total()
        confidences, classes = np.split(total, [self._confidence.cells])
        predictions = int(confidences.sum())
        if predictions < LEAST:
            return predictions, {}
        found = {"confidence": self._confidence.drift(confidences, predictions)}
        if self._classes is not None:
            found["classes"] = self._classes.drift(classes, predictions)
        return predictions, found


def watch(manifest: Manifest, *, window: float) -> Drift | None:
    """What watches the answers of a model in the last `window` seconds, if it has a baseline."""
    if manifest.baseline is None:
        return None
    return Drift(manifest, manifest.baseline, window=window)


def _classes(manifest: Manifest, baseline: Baseline) -> Classes | Labels | None:
    if manifest.task == "single-label":
        return Classes(baseline.class_shares)
    if baseline.label_shares is None:  # a bundle older than they are
        return None
    return Labels(baseline.label_shares, manifest.cutoffs)


def _yes_and_no(shares: Proportions) -> Proportions:
    """Shares [K] as histograms [K, 2]."""
    return np.stack([shares, 1 - shares], axis=-1)
