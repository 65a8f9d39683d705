"""How good an ONNX classifier is, measured on the file itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convoy.bundle import INPUT_NAME, OUTPUT_NAME, Baseline, Quality
from training.datasets import Split

BATCH = 64
CALIBRATION_BINS = 15
BASELINE_BINS = 20

Probabilities = NDArray[np.float32]
"""[N, K]"""


class OnnxModel:
    """An ONNX classifier on the CPU."""

    def __init__(self, model: bytes | Path) -> None:
        import onnxruntime

        content = model if isinstance(model, bytes) else str(model)
        self._session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def __call__(self, images: NDArray[np.uint8]) -> Probabilities:
        """One batch: uint8 [N, H, W, C] to float32 [N, K]."""
        answer: list[Any] = self._session.run([OUTPUT_NAME], {INPUT_NAME: images})
        return np.asarray(answer[0])

    def predict(self, images: NDArray[np.uint8]) -> Probabilities:
        """Any number of images, in batches."""
        starts = range(0, len(images), BATCH)
        return np.concatenate([self(images[start : start + BATCH]) for start in starts])


def measure(split: Split, probabilities: Probabilities) -> Quality:
    """Accuracy, calibration and confusion on one test split."""
    confusion = confusion_matrix(split.labels, probabilities)
    right = np.diag(confusion)
    return Quality(
        split=split.name,
        images=len(split),
        accuracy=float(right.sum() / len(split)),
        calibration_error=calibration_error(split.labels, probabilities),
        precision=tuple((right / np.maximum(confusion.sum(axis=0), 1)).tolist()),
        recall=tuple((right / np.maximum(confusion.sum(axis=1), 1)).tolist()),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def baseline(split: Split, probabilities: Probabilities) -> Baseline:
    """The distribution of predictions that a monitor compares later ones with."""
    classes = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])
    confidences, _ = np.histogram(probabilities.max(axis=1), BASELINE_BINS, range=(0.0, 1.0))
    return Baseline(
        split=split.name,
        class_shares=tuple((classes / len(split)).tolist()),
        confidence_shares=tuple((confidences / len(split)).tolist()),
    )


def confusion_matrix(labels: NDArray[np.int64], probabilities: Probabilities) -> NDArray[np.int64]:
    """[K, K] counts: row = the right class, column = the predicted one."""
    classes = probabilities.shape[1]
    cells = labels * classes + probabilities.argmax(axis=1)
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def reliability(
    labels: NDArray[np.int64], probabilities: Probabilities
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Per bin of confidence: mean confidence, accuracy (both 0 where empty), number of images."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    # Bins are (lower, upper], as in the paper; a confidence of 0 cannot occur.
    bins = np.ceil(confidence * CALIBRATION_BINS).astype(np.int64).clip(1, CALIBRATION_BINS) - 1
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    filled = np.maximum(counts, 1)
    mean_confidence = np.bincount(bins, confidence, CALIBRATION_BINS) / filled
    accuracy = np.bincount(bins, right, CALIBRATION_BINS) / filled
    return mean_confidence, accuracy, counts


def calibration_error(labels: NDArray[np.int64], probabilities: Probabilities) -> float:
    """Expected calibration error over 15 equal-width bins (Guo et al., 2017)."""
    confidence, accuracy, counts = reliability(labels, probabilities)
    return float((counts * np.abs(confidence - accuracy)).sum() / counts.sum())
