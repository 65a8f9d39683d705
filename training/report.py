"""report.html: one self-contained page about a bundle, for people."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from convoy.bundle import Manifest, Quality
from training.datasets import Split
from training.metrics import Probabilities, reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Log = Sequence[Mapping[str, float]]

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 46rem; margin: 1rem auto;
       padding: 0 1rem; }}
svg {{ width: 100%; height: auto; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25rem .75rem .25rem 0; border-bottom: 1px solid #ddd; text-align: left;
         vertical-align: top; overflow-wrap: anywhere; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def render_report(manifest: Manifest, log: Log, split: Split, probabilities: Probabilities) -> str:
    """The page; its figures are of the first test split."""
    quality = manifest.quality[0]
    sections = [
        ("Quality on the test splits", _quality_table(manifest.quality)),
        ("Learning curves", _svg(_learning_curves(log), "loss and accuracy by epoch")),
        (f"Classes, on {quality.split}", _class_table(manifest, split)),
        ("Reliability", _svg(_reliability(split, probabilities), "accuracy by confidence")),
        ("Provenance", _provenance_table(manifest)),
    ]
    if quality.confusion:
        drawing = _svg(_confusion(manifest.labels, quality), "confusion matrix")
        sections.insert(3, ("Confusion matrix", drawing))
    body = "\n".join(f"<h2>{html.escape(title)}</h2>\n{content}" for title, content in sections)
    return _PAGE.format(title=html.escape(f"{manifest.name} {manifest.version}"), body=body)


def _quality_table(qualities: Iterable[Quality]) -> str:
    rows = [
        (one.split, f"{one.images:,}", f"{one.accuracy:.2%}", f"{one.calibration_error:.4f}")
        for one in qualities
    ]
    return _table(("split", "images", "accuracy", "calibration error"), rows)


def _class_table(manifest: Manifest, split: Split) -> str:
    labels, quality = manifest.labels, manifest.quality[0]
    one = split.labels.ndim == 1
    flags = split.labels[:, None] == np.arange(len(labels)) if one else split.labels
    columns: dict[str, Iterable[str]] = {
        "class": labels,
        "images": [f"{count:,}" for count in flags.sum(axis=0, dtype=int)],
        "precision": map("{:.1%}".format, quality.precision),
        "recall": map("{:.1%}".format, quality.recall),
        "F1": map("{:.1%}".format, quality.f1),
    }
    if manifest.thresholds is not None:
        columns["threshold"] = map("{:.3f}".format, manifest.thresholds)
    return _table(list(columns), zip(*columns.values(), strict=True))


def _provenance_table(manifest: Manifest) -> str:
    training = manifest.training
    rows = [
        ("data set", training.dataset),
        ("its sha256", training.dataset_sha256 or "unknown"),
        ("created", training.created),
        ("hardware", training.hardware),
        ("training took", f"{(training.train_seconds or 0) / 60:.1f} minutes"),
        ("git commit", training.git_commit or "unknown"),
        ("versions", ", ".join(f"{name} {v}" for name, v in training.versions.items())),
        *((key, str(value)) for key, value in training.recipe.items()),
    ]
    return _table(("", ""), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [_row(head, "th"), *(_row(row, "td") for row in rows)]
    return f'<div class="wide"><table>\n{"".join(lines)}</table></div>'


def _row(cells: Iterable[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>\n"


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, columns)))


def _learning_curves(log: Log) -> Figure:
    figure, axes = _figure(8, 3.2, columns=2)
    epochs = [entry["epoch"] for entry in log]
    for axis, what in zip(axes, ("loss", "accuracy"), strict=True):
        for part in ("train", "validation"):
            values = [entry[f"{part}_{what}"] for entry in log]
            axis.plot(epochs, values, marker=".", label=part)
        axis.set(xlabel="epoch", ylabel=what)
        axis.grid(alpha=0.3)
        axis.legend()
    return figure


def _confusion(labels: Sequence[str], quality: Quality) -> Figure:
    figure, (axis,) = _figure(6, 5.5)
    counts = np.asarray(quality.confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    ticks = range(len(labels))
    axis.set_xticks(ticks, labels, rotation=60, ha="right")
    axis.set_yticks(ticks, labels)
    axis.set(xlabel="predicted", ylabel="right")
    if len(labels) <= 20:  # more numbers than that cannot be read
        for row, column in np.ndindex(*counts.shape):
            color = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, str(counts[row, column]), ha="center", va="center", color=color)
    return figure


def _reliability(split: Split, probabilities: Probabilities) -> Figure:
    figure, (axis,) = _figure(5, 3.6)
    confidence, accuracy, counts = reliability(split.labels, probabilities)
    filled = counts > 0
    axis.plot([0, 1], [0, 1], color="grey", linestyle="--", label="perfectly calibrated")
    axis.plot(confidence[filled], accuracy[filled], marker="o", label="measured")
    axis.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def _svg(figure: Figure, alternative: str) -> str:
    import matplotlib

    buffer = io.StringIO()
    # Text stays text, which is smaller; without date and random ids equal input gives equal pages.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": alternative}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    drawing = re.sub(r"\s+$", "", text[text.index("<svg") :], flags=re.MULTILINE)
    return f'<figure role="img" aria-label="{html.escape(alternative)}">\n{drawing}\n</figure>'
