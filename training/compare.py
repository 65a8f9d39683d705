"""Is a new bundle better than the old one? Both run over the same images, in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path

import numpy as np

from convoy.bundle import Bundle
from training.comparison import ClassChange, Comparison, Side
from training.datasets import Split, open_source
from training.errors import TrainingError
from training.evaluate import find_tests, trained_recipe
from training.measure import OnnxModel, measure
from training.metrics import Z_95, decide, share_interval
from training.recipe import Recipe
from training.speed import BATCHES, median_latencies, repeat


class Contender:
    """A bundle that has answered its test split."""

    def __init__(self, bundle: Bundle, split: Split) -> None:
        manifest = bundle.manifest
        self.bundle, self.split, self.model = bundle, split, OnnxModel(bundle.model_path)
        answers = self.model.predict(split.images, manifest.max_batch_size)
        self.quality = measure(split, answers, manifest.thresholds)
        truth, given = decide(split.labels, answers, manifest.thresholds)
        self.right = (truth == given).all(axis=1)

    def takes(self, batch: int) -> bool:
        """Whether so many images may run together."""
        return batch <= (self.bundle.manifest.max_batch_size or batch)

    def side(self, latencies: Mapping[int, float | None]) -> Side:
        """What the comparison says of it."""
        return Side(
            bundle=str(self.bundle.path),
            accuracy=self.quality.accuracy,
            accuracy_interval=share_interval(self.quality.accuracy, self.quality.images),
            macro_f1=self.quality.macro_f1,
            calibration_error=self.quality.calibration_error,
            bytes=self.bundle.model_path.stat().st_size,
            latency_ms=dict(latencies),
        )


def compare_bundles(
    old: Bundle, new: Bundle, data: Path, *, folder: bool = False, only: str | None = None
) -> Comparison:
    """Measure both on the test images that both held out, or on a whole image folder.

    Raises: TrainingError where they have no test images in common; BundleError.
    """
    if set(old.manifest.labels) != set(new.manifest.labels):
        odd = sorted(set(old.manifest.labels) ^ set(new.manifest.labels))
        raise TrainingError(
            f"{new.path}: has other classes than {old.path}: only one of them knows {odd[0]!r}"
        )
    pair = _common_tests(old, new, data, folder=folder, only=only)
    return _compare(Contender(old, pair[0]), Contender(new, pair[1]))


def mcnemar(only_old: int, only_new: int) -> float:
    """Two-sided exact p-value of McNemar's test, from the images that only one has right.

    Without a true difference either has as many as the other: a coin's throws (McNemar, 1947).
    """
    throws, fewer = only_old + only_new, min(only_old, only_new)
    ways = term = 1
    for k in range(fewer):  # exact integers: no approximation, however many
        term = term * (throws - k) // (k + 1)
        ways += term
    return min(1.0, 2 * ways / (1 << throws))


def gain_interval(only_old: int, only_new: int, images: int) -> tuple[float, float]:
    """95 % interval of the difference of paired shares (Agresti and Min, 2005)."""
    # Half an image added to each of the four cells keeps it wide enough for few images.
    total, ours, theirs = images + 2, only_new + 0.5, only_old + 0.5
    gain = (ours - theirs) / total
    margin = Z_95 * sqrt(max(ours + theirs - (ours - theirs) ** 2 / total, 0.0)) / total
    return gain - margin, gain + margin


def _compare(old: Contender, new: Contender) -> Comparison:
    only_old, only_new = int((old.right & ~new.right).sum()), int((new.right & ~old.right).sum())
    images = len(old.split)
    low, high = gain_interval(only_old, only_new, images)
    latencies = _latencies(old, new)
    return Comparison(
        split=old.split.name,
        images=images,
        task=old.bundle.manifest.task,
        old=old.side(latencies[0]),
        new=new.side(latencies[1]),
        gain=100 * (only_new - only_old) / images,
        gain_interval=(100 * low, 100 * high),
        only_old_right=only_old,
        only_new_right=only_new,
        p_value=mcnemar(only_old, only_new),
        classes=_changes(old, new),
    )


def _changes(old: Contender, new: Contender) -> tuple[ClassChange, ...]:
    figure = "f1" if old.split.labels.ndim == 2 else "recall"
    names = [contender.bundle.manifest.labels for contender in (old, new)]
    figures = [getattr(contender.quality, figure) for contender in (old, new)]
    return tuple(
        ClassChange(label=label, figure=figure, old=before, new=figures[1][names[1].index(label)])
        for label, before in zip(names[0], figures[0], strict=True)
    )


def _latencies(old: Contender, new: Contender) -> list[dict[int, float | None]]:
    """Of both, by batch; None for both where one of them does not take it."""
    found: list[dict[int, float | None]] = [{}, {}]
    for batch in BATCHES:
        medians: list[float | None] = [None, None]
        if old.takes(batch) and new.takes(batch):
            runs = [(one.model, repeat(one.split.images, batch)) for one in (old, new)]
            medians = [*median_latencies(runs)]
        for times, median in zip(found, medians, strict=True):
            times[batch] = median
    return found


def _common_tests(
    old: Bundle, new: Bundle, data: Path, *, folder: bool, only: str | None
) -> list[Split]:
    """The same images for each of the two, at its own size."""
    if folder:
        return [find_tests(bundle, data, folder=True, only=only)[0] for bundle in (old, new)]
    trained = [bundle for bundle in (old, new) if bundle.manifest.training.recipe]
    if len(trained) == 2:
        pair = [find_tests(bundle, data, only=only)[0] for bundle in (old, new)]
        _require_same_images(old, new, pair, data)
        return pair
    lender = trained[0] if trained else old
    (split, *_) = find_tests(lender, data, only=only)
    return [_lent(split, lender, bundle) for bundle in (old, new)]


def _require_same_images(old: Bundle, new: Bundle, pair: Sequence[Split], data: Path) -> None:
    same_rows = _hold_out_the_same(trained_recipe(old), trained_recipe(new), data)
    same_size = old.manifest.input == new.manifest.input
    equal = not same_size or np.array_equal(pair[0].images, pair[1].images)
    if not (same_rows and equal):
        raise TrainingError(
            f"{new.path} and {old.path} held out different test images, so one may have learnt "
            "what the other is tested on; give photos that are new to both, with --folder"
        )


def _hold_out_the_same(old: Recipe, new: Recipe, data: Path) -> bool:
    """Whether both recipes leave the same of these images to the test."""
    if old.source != new.source:
        return False
    drawn_alike = (old.test_share, old.seed) == (new.test_share, new.seed)
    return drawn_alike or not open_source(old, data).draws_test


def _lent(split: Split, lender: Bundle, bundle: Bundle) -> Split:
    """A bundle's test split for one that has none, its labels in that one's order."""
    if bundle.manifest.input != lender.manifest.input:
        raise TrainingError(
            f"{bundle.path}: takes images of another size, or cut by another rule, than "
            f"{lender.path}, whose test split it would get; give an image folder, with --folder"
        )
    places = [lender.manifest.labels.index(label) for label in bundle.manifest.labels]
    several = split.labels.ndim == 2
    labels = split.labels[:, places] if several else np.argsort(places)[split.labels]
    return Split(split.images, labels, split.name)
