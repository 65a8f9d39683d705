"""An image folder: one folder per class, with or without its own train, validation and test.

Photos are decoded by `convoy.imaging`, as the service decodes them, and kept at the input's size.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from convoy.errors import ImageError
from convoy.imaging import InputSpec, decode
from training.datasets.base import Labelled, Source, Split, stratified_split
from training.errors import TrainingError
from training.recipe import Recipe

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
VALIDATION_NAMES = ("validation", "val", "valid")

MEMORY_LIMIT = 4 * 2**30
"""Bytes of decoded pixels above which they go to a temporary file instead of memory."""

Part = tuple[list[Path], NDArray[np.int64]]


class Folder(Source):
    """Photos in one folder per class; the folders' names, sorted, are the labels."""

    def __init__(self, root: Path, recipe: Recipe) -> None:
        self.spec = photo_spec(recipe)
        own = (root / "train").is_dir()
        base = root / "train" if own else root
        self.labels = class_names(base)
        self._training = list_images(base, self.labels)
        self._validation = self._own(root, VALIDATION_NAMES) if own else None
        self._test = self._own(root, ("test",)) if own else None
        if self._test is None:
            self._hold_out_test(recipe)

    @classmethod
    def open(cls, recipe: Recipe, root: Path, *, download: bool) -> Self:
        """List the files; they are read later. Raises: TrainingError."""
        if not root.is_dir():
            raise TrainingError(f"{root}: no such folder; name your images' folder with --data")
        return cls(root, recipe)

    def training(self) -> Labelled:
        """The photos of `train`, or all but the test share."""
        return self._read(self._training)

    def validation(self) -> Labelled | None:
        """The photos of `validation`, `val` or `valid`."""
        return None if self._validation is None else self._read(self._validation)

    def tests(self) -> list[Split]:
        """The photos of `test`, or the share that was held out."""
        assert self._test is not None
        test = self._read(self._test)
        return [Split(test.images, test.labels, f"test-{len(test)}")]

    def _own(self, root: Path, names: Sequence[str]) -> Part | None:
        for name in names:
            if (root / name).is_dir():
                return list_images(root / name, self.labels)
        return None

    def _hold_out_test(self, recipe: Recipe) -> None:
        files, labels = self._training
        held, rest = stratified_split(labels, recipe.test_share, recipe.seed)
        self._test = [files[row] for row in held], labels[held]
        self._training = [files[row] for row in rest], labels[rest]

    def _read(self, part: Part) -> Labelled:
        files, labels = part
        return Labelled(read_images(files, self.spec), labels)


def photo_spec(recipe: Recipe) -> InputSpec:
    """The input that a recipe wants photos of any size made into."""
    size = recipe.image_size
    return InputSpec(height=size, width=size, channels=recipe.channels, resize=recipe.resize)


def class_names(base: Path) -> tuple[str, ...]:
    """The classes of an image folder. Raises: TrainingError where there are fewer than two."""
    names = tuple(sorted(f.name for f in base.iterdir() if f.is_dir() and f.name[0] != "."))
    if len(names) < 2:
        raise TrainingError(
            f"{base}: {len(names)} class folder{'s' * (len(names) != 1)}; "
            "there must be at least two, one per class"
        )
    return names


def list_images(base: Path, classes: Sequence[str]) -> Part:
    """Files of every class, by class and name, and the classes' indices.

    Raises: TrainingError naming a class without images.
    """
    files: list[Path] = []
    labels: list[int] = []
    for index, name in enumerate(classes):
        found = sorted(f for f in (base / name).rglob("*") if f.suffix.lower() in SUFFIXES)
        if not found:
            raise TrainingError(f"{base / name}: no images in this class; add some or remove it")
        files += found
        labels += [index] * len(found)
    return files, np.asarray(labels, np.int64)


def read_images(files: Sequence[Path], spec: InputSpec) -> NDArray[np.uint8]:
    """Decode files as the service would, [N, H, W, C]. Raises: TrainingError naming the file."""
    images = _allocate((len(files), *spec.shape))
    pool = ThreadPoolExecutor(os.cpu_count())  # Pillow releases the interpreter's lock
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


def _allocate(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    size = int(np.prod(shape))
    if size <= MEMORY_LIMIT:
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile() as file:  # lives on, nameless, as long as the mapping does
        return np.memmap(file, np.uint8, "w+", shape=shape)
