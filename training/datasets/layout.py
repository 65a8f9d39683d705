"""How an image folder is laid out: a folder per class, photos anywhere below it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from convoy.files import IMAGE_SUFFIXES, files_below
from training.errors import TrainingError

SHOWN = 5
"""Suffixes that are named."""

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


def class_names(base: Path, fewest: int = 2) -> tuple[str, ...]:
    """The classes of an image folder. Raises: TrainingError where they cannot be classes."""
    names = tuple(sorted(f.name for f in base.iterdir() if f.is_dir() and f.name[0] != "."))
    if len(names) < fewest:
        raise TrainingError(
            f"{base}: {len(names)} class folder{'s' * (len(names) != 1)}; "
            f"there must be at least {fewest}, one per class"
        )
    for name in names:
        if not is_utf8(name):
            raise TrainingError(
                f"{base}: the class folder {name!r} is not named in UTF-8; rename it"
            )
    return names


def list_images(base: Path, classes: Sequence[str]) -> tuple[list[Path], NDArray[np.int64]]:
    """Files of every class, by class and name, and the classes' indices.

    Says what it leaves out. Raises: TrainingError naming a class without images.
    """
    files: list[Path] = []
    labels: list[int] = []
    others: Counter[str] = Counter()
    for index, name in enumerate(classes):
        found, left = _photos(base / name)
        if not found:
            only = f", only {_kinds(left)}" if left else ""
            raise TrainingError(
                f"{base / name}: no images in this class{only}; add some or remove it"
            )
        files += found
        labels += [index] * len(found)
        others += left
    if others:
        tqdm.write(
            f"{base}: left out {others.total():,} file{'s' * (others.total() != 1)} of other kinds "
            f"({_kinds(others)}); make JPEG or PNG of those that are photos", file=sys.stderr,
        )  # fmt: skip
    return files, np.asarray(labels, np.int64)


def _photos(folder: Path) -> tuple[list[Path], Counter[str]]:
    """The photos below a folder, and how many other files there are of each suffix."""
    try:
        files = sorted(map(Path, files_below(folder)))
    except OSError as error:
        raise TrainingError(f"{error.filename}: {error.strerror}") from None
    others = Counter(f.suffix.lower() for f in files)
    for suffix in IMAGE_SUFFIXES:
        del others[suffix]
    return [f for f in files if f.suffix.lower() in IMAGE_SUFFIXES], others


def _kinds(others: Counter[str]) -> str:
    """The most frequent suffixes, each with its number."""
    named = [
        f"{count:,} {suffix or 'without a suffix'}" for suffix, count in others.most_common(SHOWN)
    ]
    return ", ".join(named) + (", ..." if len(others) > SHOWN else "")


def is_utf8(name: str) -> bool:
    """Whether a file's name is text, not mere bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
