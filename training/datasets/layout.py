"""How an image folder is laid out: a folder per class, photos anywhere below it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})

TRAIN_NAMES = ("train", "training", "train_set", "training_set")
VALIDATION_NAMES = ("validation", "val", "valid", "validation_set")
TEST_NAMES = ("test", "testing", "test_set")
"""What a folder of a split may be called, in capitals too."""


def split_folder(root: Path, names: Sequence[str]) -> Path | None:
    """The folder of a split, if `root` has one. Raises: TrainingError where it has several."""
    found = sorted(f for f in root.iterdir() if f.name.casefold() in names and f.is_dir())
    if len(found) > 1:
        raise TrainingError(
            f"{root}: has the folders {found[0].name!r} and {found[1].name!r}; keep one, or rename "
            "them if they are classes"
        )
    return found[0] if found else None


def class_names(base: Path) -> tuple[str, ...]:
    """The classes of an image folder. Raises: TrainingError where they cannot be classes."""
    names = tuple(sorted(f.name for f in base.iterdir() if f.is_dir() and f.name[0] != "."))
    if len(names) < 2:
        raise TrainingError(
            f"{base}: {len(names)} class folder{'s' * (len(names) != 1)}; "
            "there must be at least two, one per class"
        )
    for name in names:
        if not is_utf8(name):
            raise TrainingError(
                f"{base}: the class folder {name!r} is not named in UTF-8; rename it"
            )
    return names


def list_images(base: Path, classes: Sequence[str]) -> tuple[list[Path], NDArray[np.int64]]:
    """Files of every class, by class and name, and the classes' indices.

    Raises: TrainingError naming a class without images.
    """
    files: list[Path] = []
    labels: list[int] = []
    for index, name in enumerate(classes):
        try:
            os.scandir(base / name).close()
        except OSError as error:  # which a search would pass over
            raise TrainingError(f"{base / name}: {error.strerror}") from None
        named = (f for f in (base / name).rglob("*") if f.suffix.lower() in SUFFIXES)
        shown = (f for f in named if not _is_hidden(f.relative_to(base / name)))
        found = sorted(f for f in shown if not f.is_dir())
        if not found:
            raise TrainingError(f"{base / name}: no images in this class; add some or remove it")
        files += found
        labels += [index] * len(found)
    return files, np.asarray(labels, np.int64)


def _is_hidden(path: Path) -> bool:
    """What begins with a dot are other programs' notes, often smaller copies of the photos."""
    return any(part.startswith(".") for part in path.parts)


def is_utf8(name: str) -> bool:
    """Whether a file's name is text, not mere bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
