"""report.html: one self-contained page about a bundle, for people.

Everything on it comes from the bundle's own files and, where they are at hand, the test images; so
the page of any bundle can be made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convoy.bundle import Golden, Manifest
from training.datasets import Split
from training.measure import Answered, OnnxModel
from training.metrics import Probabilities, share_interval, without_temperature
from training.report.explain import (
    SHOWN_PHOTOS,
    Row,
    feature_maps,
    first_filters,
    occluder,
    occlusions,
    strongest_images,
)
from training.report.graph import Graph
from training.report.mistakes import confident_mistakes, frequent_confusions
from training.report.plots import confusion, learning_curves, reliability_diagram
from training.report.recipes import to_toml
from training.runs import Log

TEMPLATE = Path(__file__).parent / "page.html.j2"

SHOWN_CLASSES = 50
"""Rows of the table of classes; of more classes, those in the test images with the lowest F1."""
DRAWN_CLASSES = 40
"""Of more, a confusion matrix shows nothing."""

Tests = Sequence[Answered]


def render_report(
    manifest: Manifest, model: bytes, golden: Golden, log: Log = (), tests: Tests = ()
) -> str:
    """The page. `tests` are test splits with the model's answers; figures are of the first one.

    Without a log, or without tests, the sections that need them are left out.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["percent"] = lambda share: f"{share:.1%}"
    environment.globals["share_interval"] = share_interval
    page = environment.get_template(TEMPLATE.name)
    return page.render(
        manifest=manifest,
        model_sha256=hashlib.sha256(model).hexdigest(),
        model_bytes=len(model),
        recipe=to_toml(manifest.training.recipe),
        curves=learning_curves(log) if log else [],
        **_measured(manifest, tests),
        **_seen(manifest, model, golden, tests),
    )


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """A row of the table of classes."""

    label: str
    images: int | None
    precision: float
    recall: float
    f1: float | None
    roc_auc: float | None
    threshold: float | None


def _measured(manifest: Manifest, tests: Tests) -> dict[str, Any]:
    """What the manifest's figures give."""
    if not manifest.quality:
        return {"classes": [], "matrix": None, "confused": []}
    quality, labels = manifest.quality[0], manifest.labels
    drawn = quality.confusion and len(labels) <= DRAWN_CLASSES
    return {
        "classes": _classes(manifest, tests),
        "matrix": confusion(labels, quality) if drawn else None,
        "confused": frequent_confusions(labels, quality),
    }


def _classes(manifest: Manifest, tests: Tests) -> list[ClassFigures]:
    quality = manifest.quality[0]
    images: Sequence[int | None] = [sum(row) for row in quality.confusion]
    if not images:
        images = tests[0][0].labels.sum(axis=0, dtype=int).tolist() if tests else ()
    columns = (images, quality.precision, quality.recall, quality.f1, quality.roc_auc)
    given = (manifest.labels, *columns, manifest.thresholds or ())
    rows = [
        ClassFigures(*row)
        for row in zip(*(_filled(column, len(manifest.labels)) for column in given), strict=True)
    ]
    if len(rows) <= SHOWN_CLASSES:
        return rows
    there = [row for row in rows if row.images != 0]
    return sorted(there, key=lambda row: row.f1 or row.recall)[:SHOWN_CLASSES]


def _filled(column: Sequence[Any], count: int) -> Sequence[Any]:
    """A figure per class, or None for each where the figure is not known."""
    return column or (None,) * count


def _seen(manifest: Manifest, model: bytes, golden: Golden, tests: Tests) -> dict[str, Any]:
    """What looking at pictures gives."""
    graph = Graph(model, batch=manifest.max_batch_size)
    runner = OnnxModel(model)
    photos = golden.pixels[:SHOWN_PHOTOS]
    filters = first_filters(graph, photos[0])
    strongest: list[Row] = []
    mistakes, diagram = [], None
    if tests:
        split, answers = tests[0]
        strongest = strongest_images(graph, split.images)
        mistakes = confident_mistakes(manifest, split, answers)
        diagram = _reliability(manifest, split, answers)
    return {
        "filters": filters,
        "maps": feature_maps(graph, photos[0]),
        "occluded": occlusions(
            lambda images: runner.predict(images, manifest.max_batch_size), photos, manifest.labels
        ),
        "occluder": occluder(*photos.shape[1:3]),
        "strongest": strongest,
        "mistakes": mistakes,
        "diagram": diagram,
        "split": tests[0][0].name if tests else None,
    }


def _reliability(manifest: Manifest, split: Split, answers: Probabilities) -> str:
    if manifest.temperature is None:
        return reliability_diagram({"measured": (split.labels, answers)})
    before = without_temperature(split.labels, answers, manifest.temperature)
    return reliability_diagram(
        {
            "without temperature": (split.labels, before),
            f"divided by {manifest.temperature:.2f}": (split.labels, answers),
        }
    )
