"""MNIST and Fashion-MNIST, through torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np

from convoy.imaging import InputSpec
from training.datasets.base import Labelled, Source, Split
from training.errors import TrainingError, first_line
from training.recipe import Recipe


class Mnist(Source):
    """60,000 handwritten digits, grey, 28 x 28; white on black."""

    labels: tuple[str, ...] = tuple("0123456789")
    spec = InputSpec(height=28, width=28, channels=1)
    folder = "mnist"
    reader = "MNIST"
    """torchvision's class, which is also the name of the folder that it reads."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def open(cls, recipe: Recipe, root: Path, *, download: bool) -> Self:
        """Look in `root`, then where a collection has it inside. Raises: TrainingError."""
        for folder in (root, root / cls.folder):
            if (folder / cls.reader / "raw").is_dir():
                return cls(folder)
        if not download:
            raise TrainingError(
                f"{root}: holds no {cls.reader}/raw; "
                "name the folder that does with --data, or fetch it with --download"
            )
        source = cls(root)
        source._read(train=True, download=True)
        return source

    def training(self) -> Labelled:
        """The official training set."""
        return self._read(train=True)

    def tests(self) -> list[Split]:
        """The official test set."""
        test = self._read(train=False)
        return [Split(test.images, test.labels, f"test-{len(test)}")]

    def _read(self, *, train: bool, download: bool = False) -> Labelled:
        from torchvision import datasets

        try:
            read = getattr(datasets, self.reader)(self.root, train=train, download=download)
        except Exception as error:  # of a damaged file, the reader raises whatever it stumbles on
            text = first_line(error)
            raise TrainingError(f"{self.root / self.reader}: cannot be read: {text}") from None
        return Labelled(read.data.numpy()[..., None], read.targets.numpy().astype(np.int64))


class FashionMnist(Mnist):
    """60,000 articles of clothing, grey, 28 x 28; white on black."""

    labels = (
        "T-shirt/top", "trouser", "pullover", "dress", "coat",
        "sandal", "shirt", "sneaker", "bag", "ankle boot",
    )  # fmt: skip
    folder = "fashion-mnist"
    reader = "FashionMNIST"
