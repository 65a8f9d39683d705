"""An image folder: one folder per class, with or without its own train, validation and test."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Self

from tqdm import tqdm

from training.datasets.base import stratified_split
from training.datasets.layout import (
    TEST_NAMES,
    TRAIN_NAMES,
    VALIDATION_NAMES,
    class_names,
    list_images,
    split_folder,
)
from training.datasets.photos import Part, Parts, Photos, open_store, photo_spec
from training.errors import TrainingError
from training.recipe import Recipe

ADVICE = 'repair or remove it, or set corrupt_images to "skip"'
SHOWN = 10
"""Skipped files that are named."""


class Folder(Photos):
    """Photos in one folder per class; the folders' names, sorted, are the labels."""

    def __init__(self, root: Path, recipe: Recipe) -> None:
        self.spec = photo_spec(recipe)
        self._skips = recipe.corrupt_images == "skip"
        train = _train_folder(root)
        base = train or root
        self.labels = class_names(base)
        learnt = self._list(base)
        test = self._own(train, TEST_NAMES) if train else None
        self.draws_test = test is None
        if test is None:
            held, rest = stratified_split(
                learnt.labels, recipe.test_share, recipe.seed, self.labels
            )
            test, learnt = learnt.take(held), learnt.take(rest)
        validation = self._own(train, VALIDATION_NAMES) if train else None
        self._parts = Parts(learnt, validation, test)

    @classmethod
    def open(cls, recipe: Recipe, root: Path, *, download: bool) -> Self:
        """List the files and, to skip bad ones, read them. Raises: TrainingError."""
        if not root.is_dir():
            raise TrainingError(f"{root}: no such folder; name your images' folder with --data")
        return cls(root.resolve(), recipe)  # its store knows files by their whole path

    def _own(self, train: Path, names: Sequence[str]) -> Part | None:
        """The photos of another split, which lies beside `train`."""
        if (base := split_folder(train.parent, names)) is None:
            return None
        if other := sorted(set(self.labels) ^ set(class_names(base))):
            raise TrainingError(
                f"{base}: its classes differ from those of {train}: "
                f"{other[0]!r} is in one of them only"
            )
        return self._list(base)

    def _list(self, base: Path) -> Part:
        files, labels = list_images(base, self.labels)
        advice = None if self._skips else ADVICE
        part = Part(cache(partial(open_store, base, files, self.spec, advice)), files, labels)
        return self._without_corrupt(base, part) if self._skips else part

    def _without_corrupt(self, base: Path, part: Part) -> Part:
        problems = part.store().problems
        for file, problem in list(problems.items())[:SHOWN]:
            tqdm.write(f"skipped {file}: {problem}", file=sys.stderr)
        if len(problems) > SHOWN:
            tqdm.write(f"skipped {len(problems) - SHOWN} more", file=sys.stderr)
        part = part.take(row for row, file in enumerate(part.files) if str(file) not in problems)
        for label, name in enumerate(self.labels):
            if label not in part.labels:
                raise TrainingError(f"{base / name}: none of its images can be decoded")
        return part


def _train_folder(root: Path) -> Path | None:
    """What `root` holds instead of classes, if it does. Raises: TrainingError where both may be."""
    if (train := split_folder(root, TRAIN_NAMES)) is not None:
        if not any(inside.is_dir() for inside in train.iterdir()):
            raise TrainingError(
                f"{train}: holds no class folders; put the classes to learn from there, or rename "
                "it if it is a class"
            )
        return train
    for names in (TEST_NAMES, VALIDATION_NAMES):
        if (other := split_folder(root, names)) is not None:
            raise TrainingError(
                f"{root}: has a folder {other.name!r} but none named 'train'; put the classes to "
                "learn from there, or rename it if it is a class"
            )
    return None
