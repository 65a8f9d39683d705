"""Look at a bundle: its ONNX file over test images, whoever trained it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convoy.bundle import LOG_FILE, Bundle, Manifest, Quality
from training.datasets import Split, open_source
from training.datasets.layout import class_names, list_images
from training.datasets.photos import read_images
from training.errors import TrainingError
from training.measure import Answered, OnnxModel, measure
from training.metrics import describe_share, share_interval
from training.recipe import Recipe, parse_recipe
from training.report import render_report


def evaluate_bundle(bundle: Bundle, tests: Iterable[Split]) -> list[Quality]:
    """Measure the ONNX file on test splits that `find_tests` read."""
    return _measured(bundle.manifest, _answered(bundle, tests))


def report_bundle(bundle: Bundle, tests: Sequence[Split]) -> str:
    """The bundle's page made again; with tests, its figures are measured again too."""
    manifest, answered = bundle.manifest, _answered(bundle, tests)
    if answered:
        quality = tuple(_measured(manifest, answered))
        manifest = manifest.model_copy(update={"quality": quality})
    graph = bundle.model_path.read_bytes()
    return render_report(manifest, graph, bundle.golden(), read_log(bundle), answered)


def read_log(bundle: Bundle) -> list[dict[str, Any]]:
    """The log of the run that the bundle came from; empty where it has none."""
    if LOG_FILE not in bundle.manifest.files:
        return []
    return [json.loads(line) for line in (bundle.path / LOG_FILE).read_text().splitlines()]


def find_tests(
    bundle: Bundle, data: Path, *, folder: bool = False, only: str | None = None
) -> list[Split]:
    """The test splits of the data set it was trained on, or a whole image folder as one.

    Raises: TrainingError where the data do not fit the bundle.
    """
    tests = [folder_split(bundle.manifest, data)] if folder else test_splits(bundle, data)
    if only is None:
        return tests
    chosen = [split for split in tests if split.name == only]
    if not chosen:
        names = ", ".join(split.name for split in tests)
        raise TrainingError(f"{data}: has no test split {only!r}, only {names}")
    return chosen


def trained_recipe(bundle: Bundle) -> Recipe:
    """The recipe in the manifest. Raises: TrainingError where there is none."""
    recipe = bundle.manifest.training.recipe
    if not recipe:
        raise TrainingError(
            f"{bundle.path}: its manifest has no recipe, so its test split is unknown; "
            "add --folder to measure on every image of --data"
        )
    return parse_recipe(recipe, where=str(bundle.path / "manifest.json"))


def test_splits(bundle: Bundle, data: Path) -> list[Split]:
    """The test sets that training held out, drawn again with the recorded seed.

    Raises: TrainingError where other images would be drawn, which training may have seen.
    """
    source = open_source(trained_recipe(bundle), data)
    if tuple(source.labels) != bundle.manifest.labels:
        raise TrainingError(
            f"{data}: its classes are not the bundle's {', '.join(bundle.manifest.labels)}; "
            "add --folder if it holds some of them"
        )
    recorded = bundle.manifest.training.dataset_sha256
    if recorded and source.draws_test and source.training().sha256() != recorded:
        raise TrainingError(
            f"{data}: its images are not those that {bundle.path} was made of, so test images "
            "drawn now may have been trained on; give photos that are new to it, with --folder"
        )
    return source.tests()


def folder_split(manifest: Manifest, data: Path) -> Split:
    """Every image of a folder whose classes are among the bundle's. Raises: TrainingError."""
    if manifest.task == "multi-label":
        raise TrainingError(
            f"{data}: a folder gives each image one class, {manifest.name} any number of labels; "
            "only a CSV file of images and labels, as for training, can measure it"
        )
    if not data.is_dir():
        raise TrainingError(f"{data}: no such folder; name your images' folder with --data")
    names = class_names(data, fewest=1)
    if unknown := sorted(set(names) - set(manifest.labels)):
        raise TrainingError(
            f"{data / unknown[0]}: no class of the bundle, which knows {', '.join(manifest.labels)}"
        )
    files, labels = list_images(data, names)
    known = np.array([manifest.labels.index(name) for name in names])
    return Split(read_images(files, manifest.input), known[labels], data.name)


def _answered(bundle: Bundle, tests: Iterable[Split]) -> list[Answered]:
    return OnnxModel(bundle.model_path).answered(tests, bundle.manifest.max_batch_size)


def _measured(manifest: Manifest, answered: Iterable[Answered]) -> list[Quality]:
    return [measure(*one, manifest.thresholds, manifest.temperature) for one in answered]


def describe_quality(quality: Quality, labels: tuple[str, ...]) -> str:
    """A split's figures as text: totals, a table of classes, the confusion matrix if there is."""
    width = max(len(label) for label in labels)
    cell = max(len(str(quality.images)), 5)
    columns: dict[str, tuple[float | None, ...]] = {
        "precision": quality.precision,
        "recall": quality.recall,
        "F1": quality.f1,
        "ROC-AUC": quality.roc_auc,
    }
    columns = {name: figures for name, figures in columns.items() if figures}
    head = "".join(f"{name:>11}" for name in columns)
    if quality.confusion:
        head += "  predicted as (same order as the rows)"
    lines = [describe_totals(quality), "", f"{'class':{width}}{head}"]
    for index, label in enumerate(labels):
        figures = [column[index] for column in columns.values()]
        shares = "".join(f"{'-' if one is None else f'{one:.1%}':>11}" for one in figures)
        row = quality.confusion[index] if quality.confusion else ()
        counts = "".join(f" {count:{cell}}" for count in row)
        lines.append(f"{label:{width}}{shares} {counts}".rstrip())
    return "\n".join(lines)


def describe_totals(quality: Quality) -> str:
    """A split's figures over all classes, in one line."""
    low, high = share_interval(quality.accuracy, quality.images)
    parts = [
        f"{quality.split}: {quality.accuracy:.2%} (95% interval {low:.2%} to {high:.2%}) "
        f"of {quality.images:,} images right"
    ]
    if quality.top5_accuracy is not None:
        parts.append(f"{describe_share(quality.top5_accuracy, quality.images)} in the first five")
    if quality.macro_f1 is not None:
        parts.append(f"macro F1 {quality.macro_f1:.4f}")
    parts.append(f"calibration error {quality.calibration_error:.4f}")
    if quality.unscaled_calibration_error is not None:
        parts[-1] += f" ({quality.unscaled_calibration_error:.4f} without its temperature)"
    return ", ".join(parts)
