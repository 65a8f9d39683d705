"""Where to draw the line between a label that is given and one that is not."""

from __future__ import annotations

import numpy as np

from training.metrics import THRESHOLD, Flags, Labels, Probabilities


def choose_thresholds(labels: Labels, probabilities: Probabilities) -> tuple[float, ...]:
    """The threshold of each label with the highest F1 on these images, validation ones.

    Both (N, K). A label is given where its probability is above its threshold: rare labels, whose
    probabilities seldom pass one half, are not lost.
    """
    truth = labels.astype(bool)
    return tuple(_best(truth[:, k], probabilities[:, k]) for k in range(truth.shape[1]))


def _best(truth: Flags, scores: Probabilities) -> float:
    """Of one label, both (N)."""
    if not truth.any():
        return THRESHOLD
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order].astype(np.float64)
    following = np.append(ranked[1:], 0.0)
    f1 = 2 * truth[order].cumsum() / (np.arange(1, len(ranked) + 1) + truth.sum())
    # Equal probabilities cannot be told apart; half-way to the next one leaves both sides room.
    best = np.where(ranked > following, f1, -1.0).argmax()
    return float((ranked[best] + following[best]) / 2)
