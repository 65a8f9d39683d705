"""Plots as SVG that stands inside a page."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from convoy.bundle import Quality
from training.metrics import (
    CALIBRATION_BINS,
    Labels,
    Probabilities,
    reliability,
    wilson_interval,
)
from training.runs import Log, best_entry

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (4.8, 3.2)
"""Inches: on a phone's screen the text of such a plot is still as large as that of a newspaper."""


def learning_curves(log: Log) -> list[str]:
    """Loss and accuracy by epoch; the exported epoch is marked."""
    epochs = [entry["epoch"] for entry in log]
    from matplotlib.ticker import MaxNLocator

    drawings = []
    for what in ("loss", "accuracy"):
        figure, axis = _figure(*SIZE)
        for part in ("train", "validation"):
            values = [entry[f"{part}_{what}"] for entry in log]
            axis.plot(epochs, values, marker=".", label=part)
        axis.axvline(best_entry(log)["epoch"], color="grey", linestyle=":", label="exported")
        axis.set(xlabel="epoch", ylabel=what)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.grid(alpha=0.3)
        axis.legend()
        drawings.append(_svg(figure, f"{what} by epoch"))
    return drawings


def confusion(labels: Sequence[str], quality: Quality) -> str:
    """Shares of each class's images by colour, and their numbers where they can be read."""
    figure, axis = _figure(6.4, 5.6)
    counts = np.asarray(quality.confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    ticks = range(len(labels))
    # Between two dollar signs, matplotlib would set a formula.
    plain = {"parse_math": False}
    axis.set_xticks(ticks, labels, rotation=60, ha="right", rotation_mode="anchor", **plain)
    axis.set_yticks(ticks, labels, **plain)
    axis.set(xlabel="predicted", ylabel="right")
    if len(labels) <= 20:
        for row, column in np.ndindex(*counts.shape):
            color = "white" if shares[row, column] > 0.5 else "black"
            if counts[row, column]:
                text = str(counts[row, column])
                axis.text(column, row, text, ha="center", va="center", color=color)
    return _svg(figure, "confusion matrix")


def reliability_diagram(curves: Mapping[str, tuple[Labels, Probabilities]]) -> str:
    """Share right by confidence, and below it how many images have that confidence."""
    figure, axis = _figure(*SIZE)
    axis.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1, label="perfect")
    for name, (labels, probabilities) in curves.items():
        confidence, share, counts = reliability(labels, probabilities)
        bins = np.flatnonzero(counts)
        intervals = [wilson_interval(round(share[i] * counts[i]), int(counts[i])) for i in bins]
        margins = np.abs(np.transpose(intervals) - share[bins])
        line, *_ = axis.errorbar(
            confidence[bins], share[bins], margins, marker="o", ms=4, elinewidth=0.7, label=name
        )
        centres = (np.arange(CALIBRATION_BINS) + 0.5) / CALIBRATION_BINS
        heights, width = counts / counts.sum(), 0.8 / CALIBRATION_BINS
        axis.bar(centres, heights, width, color=line.get_color(), alpha=0.25)
    axis.set(xlabel="confidence", ylabel="share right", xlim=(0, 1), ylim=(0, 1.02))
    axis.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, fontsize="small", frameon=False)
    return _svg(figure, "share right by confidence")


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure, alternative: str) -> str:
    import matplotlib

    buffer = io.StringIO()
    # Text stays text, which is smaller; without date and random ids equal input gives equal pages.
    with (
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": alternative}),
        warnings.catch_warnings(),
    ):
        # What matplotlib's own font lacks, the reader's browser has.
        warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    drawing = re.sub(r"\s+$", "", text[text.index("<svg") :], flags=re.MULTILINE)
    label = html.escape(alternative)
    return drawing.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
