"""An image folder: one folder per class, with or without its own train, validation and test.

Photos are decoded by `convoy.imaging`, as the service decodes them, and kept at the input's size.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Self, cast

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from convoy.errors import ImageError
from convoy.imaging import InputSpec, decode
from convoy.processors import processor_count
from training.datasets.base import Labelled, Source, Split, stratified_split
from training.datasets.layout import (
    TEST_NAMES,
    TRAIN_NAMES,
    VALIDATION_NAMES,
    class_names,
    list_images,
    split_folder,
)
from training.datasets.store import Store, allocate
from training.errors import TrainingError
from training.recipe import Recipe

SHOWN = 10
"""Skipped files that are named."""


@dataclass(frozen=True, slots=True)
class Part:
    """The photos of a folder of class folders, or some of them."""

    store: Callable[[], Store]
    """Decodes all photos of the folder at the first call."""
    files: list[Path]
    labels: NDArray[np.int64]

    def take(self, rows: Iterable[int]) -> Part:
        """The photos of these rows."""
        rows = list(rows)
        return Part(self.store, [self.files[row] for row in rows], self.labels[rows])

    def read(self, *, lazily: bool = False) -> Labelled:
        """The pixels, too; where they are many, they may stay on disk."""
        images = self.store().read(self.files, lazily=lazily)
        return Labelled(cast("NDArray[np.uint8]", images), self.labels)


class Folder(Source):
    """Photos in one folder per class; the folders' names, sorted, are the labels."""

    def __init__(self, root: Path, recipe: Recipe) -> None:
        self.spec = photo_spec(recipe)
        self._skips = recipe.corrupt_images == "skip"
        train = _train_folder(root)
        base = train or root
        self.labels = class_names(base)
        self._training = self._list(base)
        self._validation = self._own(train, VALIDATION_NAMES) if train else None
        self._test = self._own(train, TEST_NAMES) if train else None
        self.draws_test = self._test is None
        if self._test is None:
            held, rest = stratified_split(
                self._training.labels, recipe.test_share, recipe.seed, self.labels
            )
            self._test = self._training.take(held)
            self._training = self._training.take(rest)

    @classmethod
    def open(cls, recipe: Recipe, root: Path, *, download: bool) -> Self:
        """List the files and, to skip bad ones, read them. Raises: TrainingError."""
        if not root.is_dir():
            raise TrainingError(f"{root}: no such folder; name your images' folder with --data")
        return cls(root.resolve(), recipe)  # its store knows files by their whole path

    def training(self) -> Labelled:
        """The photos of `train`, or all but the test share."""
        return self._training.read(lazily=True)

    def validation(self) -> Labelled | None:
        """The photos of `validation`."""
        return None if self._validation is None else self._validation.read()

    def tests(self) -> list[Split]:
        """The photos of `test`, or the share that was held out."""
        assert self._test is not None
        test = self._test.read()
        return [Split(test.images, test.labels, f"test-{len(test)}")]

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
        part = Part(cache(partial(self._open_store, base, files)), files, labels)
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

    def _open_store(self, base: Path, files: Sequence[Path]) -> Store:
        store = Store.open(base, files, self.spec)
        if store.problems and not self._skips:
            (file, problem), *more = store.problems.items()
            others = f" ({len(more)} more cannot be decoded)" if more else ""
            raise TrainingError(
                f'{file}: {problem}; repair or remove it, or set corrupt_images to "skip"{others}'
            )
        return store


def _train_folder(root: Path) -> Path | None:
    """What `root` holds instead of classes, if it does. Raises: TrainingError where both may be."""
    if (train := split_folder(root, TRAIN_NAMES)) is not None:
        return train
    for names in (TEST_NAMES, VALIDATION_NAMES):
        if (other := split_folder(root, names)) is not None:
            raise TrainingError(
                f"{root}: has a folder {other.name!r} but none named 'train'; put the classes to "
                "learn from there, or rename it if it is a class"
            )
    return None


def photo_spec(recipe: Recipe) -> InputSpec:
    """The input that a recipe wants photos of any size made into."""
    size = recipe.image_size
    return InputSpec(height=size, width=size, channels=recipe.channels, resize=recipe.resize)


def read_images(files: Sequence[Path], spec: InputSpec) -> NDArray[np.uint8]:
    """Decode files as the service would, [N, H, W, C]. Raises: TrainingError naming the file."""
    images = allocate((len(files), *spec.shape))
    pool = ThreadPoolExecutor(processor_count())  # decoding releases the interpreter's lock
    try:
        for row, pixels in enumerate(pool.map(lambda file: read_image(file, spec), files)):
            images[row] = pixels
    finally:  # after an error, none of the other files matters
        pool.shutdown(cancel_futures=True)
    return images


def read_image(file: Path, spec: InputSpec) -> NDArray[np.uint8]:
    """Decode one file, [H, W, C]. Raises: TrainingError naming it."""
    try:
        return decode(file.read_bytes(), spec)
    except ImageError as error:
        raise TrainingError(f"{file}: {error}; repair or remove it") from None
    except OSError as error:
        raise TrainingError(f"{file}: {error.strerror}") from None
