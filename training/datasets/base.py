"""What every source of images gives: training images now, test images only when asked."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from convoy.imaging import InputSpec
from training.datasets.arrays import CHUNK, Rows
from training.errors import TrainingError
from training.recipe import Recipe

Targets: TypeAlias = NDArray[np.integer[Any]]
"""Of each image the index of its class, int64 [N]; or, where several labels may be right at once,
which of them are, 0 and 1 of uint8 [N, K]."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Images with their classes."""

    images: NDArray[np.uint8]
    """[N, H, W, C]; those to train on may be `Rows` of a store, which are read when asked for."""
    labels: Targets

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> Labelled:
        """The images of these rows."""
        if isinstance(self.images, Rows):
            images = cast("NDArray[np.uint8]", self.images.view(rows))
            return Labelled(images, self.labels[rows])
        return Labelled(self.images[rows], self.labels[rows])

    def sha256(self) -> str:
        """Over the pixels, then the labels, in order."""
        digest = hashlib.sha256()
        for start in range(0, len(self), CHUNK):
            digest.update(np.ascontiguousarray(self.images[start : start + CHUNK]).data)
        digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Split(Labelled):
    """A named test set: every figure says of which one it is."""

    name: str


@dataclass(frozen=True, slots=True)
class Splits:
    """What training may see: images to learn from, and others to choose the best epoch by."""

    train: Labelled
    validation: Labelled
    sha256: str
    """Over all training images, and over those for validation that are drawn from them."""
    validation_sha256: str | None
    """Over the source's own validation images; None where it has none."""
    labels: tuple[str, ...]
    """The classes' names."""


class Source(ABC):
    """One data set on disk."""

    labels: tuple[str, ...]
    spec: InputSpec
    draws_test: bool = False
    """Whether the test images are drawn by the recipe's share and seed."""

    @classmethod
    @abstractmethod
    def open(cls, recipe: Recipe, root: Path, *, download: bool) -> Self:
        """Find the data under `root`. Raises: TrainingError."""

    @abstractmethod
    def training(self) -> Labelled:
        """All images that training may see."""

    def validation(self) -> Labelled | None:
        """The source's own validation set, where it has one."""
        return None

    @abstractmethod
    def tests(self) -> list[Split]:
        """The test sets, read anew at each call; the network sees them after training, once."""

    def copies(self) -> list[tuple[Path, Path]]:
        """Test files of the very bytes of a file to train on, with that file."""
        return []


def split_training(source: Source, recipe: Recipe) -> Splits:
    """Read the training images; hold a stratified share out where there is no validation set."""
    training, validation = source.training(), source.validation()
    if validation is not None:
        checksums = training.sha256(), validation.sha256()
        return Splits(training, validation, *checksums, source.labels)
    held, rest = stratified_split(
        training.labels, recipe.validation_share, recipe.seed, source.labels
    )
    validation = Labelled(training.images[held], training.labels[held])
    return Splits(training.take(rest), validation, training.sha256(), None, source.labels)


class Statistics(NamedTuple):
    """Of pixels from 0 to 1, by channel."""

    mean: list[float]
    std: list[float]


def channel_statistics(images: NDArray[np.uint8]) -> Statistics:
    """Mean and standard deviation over images [N, H, W, C], read a few at a time."""
    channels = images.shape[-1]
    sums, squares = np.zeros(channels), np.zeros(channels)
    for start in range(0, len(images), CHUNK):
        pixels = images[start : start + CHUNK].reshape(-1, channels)
        sums += pixels.sum(axis=0, dtype=np.int64)
        squares += np.square(pixels, dtype=np.uint16).sum(axis=0, dtype=np.int64)
    count = int(np.prod(images.shape[:3]))
    mean = sums / count
    variance = np.maximum(squares / count - mean**2, 0.0)
    return Statistics((mean / 255).tolist(), (np.sqrt(variance) / 255).tolist())


def stratified_split(
    labels: Targets, share: float, seed: int, names: Sequence[str] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw `share` of every class, at least one image; rows of the drawn and of the rest, sorted.

    Of images with several labels at once, the rarest label counts as the class.

    Raises: TrainingError where a class has only one image, with its name of `names`; where no
    image can be drawn.
    """
    random = np.random.default_rng(seed)
    classes = labels if labels.ndim == 1 else rarest_label(labels)
    held = []
    for label in np.unique(classes):
        rows = np.flatnonzero(classes == label)
        if len(rows) < 2 and labels.ndim == 1:
            name = names[label] if names else label
            raise TrainingError(
                f"class {name} has only one image left to train on: too few to split; add more"
            )
        count = max(1, round(share * len(rows)))
        held.append(random.permutation(rows)[: min(count, len(rows) - 1)])
    drawn = np.sort(np.concatenate(held))
    if not len(drawn):
        raise TrainingError(
            f"none of the {len(labels)} images to train on can be held out: each is the only one "
            "of its rarest label; add more, or name those to hold out in a column split"
        )
    return drawn, np.setdiff1d(np.arange(len(labels)), drawn)


def rarest_label(labels: Targets) -> NDArray[np.int64]:
    """Of flags [N, K], each image's label that the fewest images have; -1 for one without any."""
    images_with = labels.sum(axis=0, dtype=np.int64)
    rarest = np.where(labels, images_with, len(labels) + 1).argmin(axis=1)
    return np.where(labels.any(axis=1), rarest, -1)
