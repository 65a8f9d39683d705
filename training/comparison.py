"""What comparing two bundles has found, and how it is told."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from training.speed import BATCHES

SIGNIFICANT = 0.05
"""Below this p-value, a difference is taken for more than chance."""


class Side(BaseModel):
    """One of the two bundles."""

    model_config = ConfigDict(frozen=True)

    bundle: str
    """Its folder."""
    accuracy: float
    accuracy_interval: tuple[float, float]
    """95 % interval."""
    macro_f1: float | None
    """Null where no test image has a label."""
    calibration_error: float
    bytes: int
    """Length of the ONNX file."""
    latency_ms: dict[int, float | None]
    """Median milliseconds by batch size; null where the model does not bear such a batch."""


class ClassChange(BaseModel):
    """What became of one class."""

    model_config = ConfigDict(frozen=True)

    label: str
    figure: str
    """`recall`, or `f1` where several labels may be right at once."""
    old: float
    new: float


class Comparison(BaseModel):
    """Two bundles on one test split."""

    model_config = ConfigDict(frozen=True)

    split: str
    images: int
    task: Literal["single-label", "multi-label"]
    """Of several labels, an image is right where all of them are."""
    old: Side
    new: Side
    gain: float
    """Points of accuracy, new minus old."""
    gain_interval: tuple[float, float]
    """95 % interval of the gain, in points."""
    only_old_right: int
    only_new_right: int
    p_value: float
    """McNemar's test: how likely chance alone makes a difference at least as large."""
    classes: tuple[ClassChange, ...]

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `no different` in accuracy, as far as these images can tell."""
        if self.p_value >= SIGNIFICANT:
            return "no different"
        return "better" if self.gain > 0 else "worse"


def describe_comparison(comparison: Comparison) -> str:
    """The comparison as a table and a verdict."""
    old, new = comparison.old, comparison.new
    low, high = comparison.gain_interval
    only = comparison.only_old_right, comparison.only_new_right
    judged = "accuracy" if comparison.task == "single-label" else "all labels right"
    rows = [
        ("", "old", "new", ""),
        (judged, f"{old.accuracy:.2%}", f"{new.accuracy:.2%}",
         f"{comparison.gain:+.2f} points, 95% interval {low:+.2f} to {high:+.2f}"),
        ("95% interval", _interval(old), _interval(new), ""),
        ("only it is right", f"{only[0]:,}", f"{only[1]:,}",
         f"McNemar's test: p = {comparison.p_value:.2g}"),
        ("macro F1", _figure(old.macro_f1), _figure(new.macro_f1), ""),
        ("calibration error", f"{old.calibration_error:.4f}", f"{new.calibration_error:.4f}", ""),
        ("size", f"{old.bytes / 1e6:.2f} MB", f"{new.bytes / 1e6:.2f} MB",
         f"{new.bytes / old.bytes - 1:+.0%}"),
        *(_latency_row(batch, old.latency_ms[batch], new.latency_ms[batch]) for batch in BATCHES),
        *((f"{one.figure} of {one.label}", f"{one.old:.1%}", f"{one.new:.1%}",
           f"{100 * (one.new - one.old):+.1f}") for one in comparison.classes),
    ]  # fmt: skip
    width = max(len(row[0]) for row in rows)
    lines = [f"{row[0]:{width}}  {row[1]:>12}  {row[2]:>12}  {row[3]}".rstrip() for row in rows]
    return "\n".join(
        [
            f"{old.bundle} and {new.bundle} on {comparison.split}, {comparison.images:,} images",
            "",
            *lines,
            "",
            f'judged by "{judged}", the new one is {comparison.verdict}',
        ]
    )


def _interval(side: Side) -> str:
    low, high = side.accuracy_interval
    return f"{100 * low:.2f}-{100 * high:.2f}"


def _figure(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.4f}"


def _latency_row(batch: int, old: float | None, new: float | None) -> tuple[str, str, str, str]:
    name = f"{batch} image{'s' * (batch > 1)}"
    if old is None or new is None:
        return name, "-", "-", "one of them does not take such a batch"
    return name, f"{old:.2f} ms", f"{new:.2f} ms", f"{new / old - 1:+.0%}"
