"""Figures of a classifier's quality, from right labels and probabilities float (N, K).

Labels are class indices (N), or 0 and 1 (N, K) where several may be right at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

CALIBRATION_BINS = 15

THRESHOLD = 0.5
"""Above it, one of several labels counts as given, unless a model has thresholds of its own."""

Z_95 = 1.959964
"""Standard deviations on either side of a normal distribution's mean that hold 95 % of it."""

Labels = NDArray[np.integer[Any]]
Probabilities = NDArray[np.float32]
"""(N, K)"""
Flags = NDArray[np.bool_]


def wilson_interval(right: int, images: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927), which stays sensible near 0 and 1."""
    share, spread = right / images, Z_95**2 / images
    centre = share + spread / 2
    margin = Z_95 * sqrt((share * (1 - share) + spread / 4) / images)
    low, high = (centre - margin) / (1 + spread), (centre + margin) / (1 + spread)
    return max(0.0, low), min(1.0, high)


def share_interval(share: float, images: int) -> tuple[float, float]:
    """The 95 % interval of a share of so many images."""
    return wilson_interval(round(share * images), images)


def describe_share(share: float, images: int) -> str:
    """A share with its 95 % interval, as `93.50% (91.80-94.87)`."""
    low, high = share_interval(share, images)
    return f"{share:.2%} ({100 * low:.2f}-{100 * high:.2f})"


def decide(
    labels: Labels, probabilities: Probabilities, thresholds: Sequence[float] | None = None
) -> tuple[Flags, Flags]:
    """Which classes are right, and which are given: the most probable, or all above a threshold.

    Both (N, K); an image is classified right where its rows agree.
    """
    if labels.ndim == 2:
        limits = THRESHOLD if thresholds is None else np.asarray(thresholds)
        return labels.astype(bool), probabilities > limits
    classes = np.arange(probabilities.shape[1])
    best = probabilities.argmax(axis=1)
    return labels[:, None] == classes, best[:, None] == classes


def share_right(
    labels: Labels, probabilities: Probabilities, thresholds: Sequence[float] | None = None
) -> float:
    """Share of images that are classified right."""
    truth, given = decide(labels, probabilities, thresholds)
    return float((truth == given).all(axis=1).mean())


def per_class(truth: Flags, given: Flags) -> tuple[NDArray[np.float64], ...]:
    """Precision, recall and their harmonic mean F1 of each class; 0 where undefined."""
    both = (truth & given).sum(axis=0)
    there, said = truth.sum(axis=0), given.sum(axis=0)
    f1 = 2 * both / np.maximum(there + said, 1)
    return both / np.maximum(said, 1), both / np.maximum(there, 1), f1


def macro_f1(truth: Flags, f1: NDArray[np.float64]) -> float | None:
    """Mean F1 of the classes that there are images of; None where there is none.

    A class without images has an F1 of 0 however few are taken for it. To leave out only those that
    are never predicted either, as scikit-learn does unless told the classes, would let models that
    are measured on the same images be measured by different classes.
    """
    there = truth.any(axis=0)
    return float(f1[there].mean()) if there.any() else None


def confusion_matrix(labels: Labels, probabilities: Probabilities) -> NDArray[np.int64]:
    """[K, K] counts: row = the right class, column = the predicted one."""
    classes = probabilities.shape[1]
    cells = labels * classes + probabilities.argmax(axis=1)
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def top_accuracy(labels: Labels, probabilities: Probabilities, k: int) -> float:
    """Share of images whose right class is among the `k` most probable."""
    right = np.take_along_axis(probabilities, labels[:, None], axis=1)
    return float(((probabilities > right).sum(axis=1) < k).mean())


def roc_auc(truth: Flags, scores: NDArray[np.float32]) -> float | None:
    """Probability that one that is there scores above one that is not; ties count half.

    Both (N). The area under the ROC curve, by ranks (Mann and Whitney, 1947); None where all are
    there, or none is.
    """
    there = int(truth.sum())
    absent = len(truth) - there
    if not there or not absent:
        return None
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return float((ranks[truth].sum() - there * (there + 1) / 2) / (there * absent))


def reliability(
    labels: Labels, probabilities: Probabilities
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Per bin of confidence: mean confidence, share right (both 0 where empty), number.

    The confidence is the highest probability of an image; where several labels may be right, every
    label's own probability counts, and "right" is that it is there.
    """
    if labels.ndim == 2:
        confidence, right = probabilities.ravel(), labels.ravel() == 1
    else:
        confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    confidence = confidence.astype(np.float64)
    # Bins are (lower, upper], as in the paper; the first also takes 0.
    bins = np.ceil(confidence * CALIBRATION_BINS).astype(np.int64).clip(1, CALIBRATION_BINS) - 1
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    filled = np.maximum(counts, 1)
    mean_confidence = np.bincount(bins, confidence, CALIBRATION_BINS) / filled
    accuracy = np.bincount(bins, right, CALIBRATION_BINS) / filled
    return mean_confidence, accuracy, counts


def calibration_error(labels: Labels, probabilities: Probabilities) -> float:
    """Expected calibration error over 15 equal-width bins (Guo et al., 2017)."""
    confidence, accuracy, counts = reliability(labels, probabilities)
    return float((counts * np.abs(confidence - accuracy)).sum() / counts.sum())


def without_temperature(
    labels: Labels, probabilities: Probabilities, temperature: float
) -> Probabilities:
    """What a model would answer without its temperature, worked out of its answers."""
    several = labels.ndim == 2
    # What float32 rounds to 0 has no logarithm. A sigmoid is cut off near 1 sooner, at half
    # of the distance from 1 to the number before it.
    smallest = 3e-8 if several or probabilities.shape[1] == 2 else 1e-38
    p = probabilities.astype(np.float64)
    powers = p.clip(smallest) ** temperature
    if several:  # each label by itself, against its absence
        total = powers + (1 - p).clip(smallest) ** temperature
    else:
        total = powers.sum(axis=1, keepdims=True)
    return (powers / total).astype(np.float32)
