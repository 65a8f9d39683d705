"""How good an ONNX classifier is, measured on the file itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from convoy.bundle import INPUT_NAME, OUTPUT_NAME, Baseline, Quality
from training.datasets import Split
from training.metrics import (
    Probabilities,
    calibration_error,
    confusion_matrix,
    decide,
    macro_f1,
    per_class,
    roc_auc,
    top_accuracy,
    wilson_interval,
    without_temperature,
)

BATCH = 64
BASELINE_BINS = 20


Answered: TypeAlias = tuple[Split, Probabilities]
"""A test split with a model's answers to it."""


class OnnxModel:
    """An ONNX classifier on the CPU."""

    def __init__(self, model: bytes | Path) -> None:
        import onnxruntime

        content = model if isinstance(model, bytes) else str(model)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors are raised
        # As the service: spinning threads of one model would slow another one down.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, images: NDArray[np.uint8]) -> Probabilities:
        """One batch: uint8 [N, H, W, C] to float32 [N, K]."""
        answer: list[Any] = self._session.run([OUTPUT_NAME], {INPUT_NAME: images})
        return np.asarray(answer[0])

    def predict(self, images: NDArray[np.uint8], batch: int | None = None) -> Probabilities:
        """Any number of images, in batches; `batch` is the largest that the model bears."""
        step = min(BATCH, batch or BATCH)
        return np.concatenate([self(images[i : i + step]) for i in range(0, len(images), step)])

    def answered(self, tests: Iterable[Split], batch: int | None = None) -> list[Answered]:
        """Test splits with its answers to them; `batch` as for `predict`."""
        return [(split, self.predict(split.images, batch)) for split in tests]

    def batch_difference(self, images: NDArray[np.uint8]) -> float:
        """How far answers move by running together; NaN where one is no number."""
        alone = np.concatenate([self(images[row : row + 1]) for row in range(len(images))])
        return float(np.abs(alone - self(images)).max())


def measure(
    split: Split,
    probabilities: Probabilities,
    thresholds: Sequence[float] | None = None,
    temperature: float | None = None,
) -> Quality:
    """Accuracy, calibration and the figures of each class on one test split.

    `thresholds` and `temperature` are the manifest's.
    """
    labels, several = split.labels, split.labels.ndim == 2
    truth, given = decide(labels, probabilities, thresholds)
    right = int((truth == given).all(axis=1).sum())
    precision, recall, f1 = per_class(truth, given)
    classes = truth.shape[1]
    raw = None if temperature is None else without_temperature(labels, probabilities, temperature)
    curves = range(classes) if several or classes == 2 else ()
    return Quality(
        split=split.name,
        images=len(split),
        accuracy=right / len(split),
        accuracy_interval=wilson_interval(right, len(split)),
        top5_accuracy=None if several or classes <= 5 else top_accuracy(labels, probabilities, 5),
        calibration_error=calibration_error(labels, probabilities),
        unscaled_calibration_error=None if raw is None else calibration_error(labels, raw),
        precision=tuple(precision.tolist()),
        recall=tuple(recall.tolist()),
        f1=tuple(f1.tolist()),
        macro_f1=macro_f1(truth, f1),
        roc_auc=tuple(roc_auc(truth[:, k], probabilities[:, k]) for k in curves),
        confusion=() if several else tuple(map(tuple, confusion_matrix(labels, probabilities))),
    )


def summarise(
    measured: Sequence[Answered],
    thresholds: Sequence[float] | None = None,
    temperature: float | None = None,
) -> dict[str, Any]:
    """What a manifest says of a model's answers: `quality`, and `baseline` of the first split."""
    return {
        "quality": tuple(measure(*one, thresholds, temperature) for one in measured),
        "baseline": baseline(*measured[0], thresholds) if measured else None,
    }


def baseline(
    split: Split, probabilities: Probabilities, thresholds: Sequence[float] | None = None
) -> Baseline:
    """The distribution of predictions that a monitor compares later ones with."""
    _, given = decide(split.labels, probabilities, thresholds)
    several = split.labels.ndim == 2
    classes = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])
    confidences, _ = np.histogram(probabilities.max(axis=1), BASELINE_BINS, range=(0.0, 1.0))
    return Baseline(
        split=split.name,
        class_shares=tuple((classes / len(split)).tolist()),
        label_shares=tuple(given.mean(axis=0).tolist()) if several else None,
        confidence_shares=tuple((confidences / len(split)).tolist()),
    )
