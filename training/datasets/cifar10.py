"""CIFAR-10, from the official binary version or the one for Python, which torchvision fetches."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from convoy.imaging import InputSpec
from training.datasets.base import Labelled, Source, Split
from training.datasets.layout import list_images
from training.datasets.photos import read_images
from training.errors import TrainingError, first_line
from training.recipe import Recipe

BINARY, PICKLE = "cifar-10-batches-bin", "cifar-10-batches-py"
LOSSLESS_1000 = "cifar10-test-lossless-1000.bin"
JPEG = "test-jpeg"

CLASSES = 10
RECORD = 1 + 3 * 32 * 32
"""Bytes of an image in the binary version: the label, then planes of red, green and blue."""


class Cifar10(Source):
    """50,000 training images of 32 x 32 of ten classes; the test sets are those that are there."""

    labels = (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip
    spec = InputSpec(height=32, width=32, channels=3)

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def open(cls, recipe: Recipe, root: Path, *, download: bool) -> Self:
        """Look in `root`, then in `root/cifar10`. Raises: TrainingError."""
        for folder in (root, root / "cifar10"):
            if (folder / BINARY).is_dir() or (folder / PICKLE).is_dir():
                return cls(folder)
        if not download:
            raise TrainingError(
                f"{root}: holds neither {BINARY} nor {PICKLE}; "
                "name the folder that does with --data, or fetch it with --download"
            )
        from torchvision.datasets import CIFAR10

        try:
            CIFAR10(root, download=True)
        except (OSError, RuntimeError) as error:
            raise TrainingError(f"{root}: cannot fetch CIFAR-10: {first_line(error)}") from None
        return cls(root)

    def training(self) -> Labelled:
        """The five training batches, in order."""
        if (self.root / BINARY).is_dir():
            return read_records([self.root / BINARY / f"data_batch_{k}.bin" for k in range(1, 6)])
        return self._pickled(train=True)

    def tests(self) -> list[Split]:
        """The lossless test set, whole or its first 1,000, and the same images as JPEG."""
        found = [self._lossless()]
        if (self.root / JPEG).is_dir():
            files, labels = list_images(self.root / JPEG, self.labels)
            found.append(Split(read_images(files, self.spec), labels, f"test-jpeg-{len(files)}"))
        return found

    def _lossless(self) -> Split:
        if (self.root / BINARY / "test_batch.bin").is_file():
            test = read_records([self.root / BINARY / "test_batch.bin"])
        elif (self.root / PICKLE / "test_batch").is_file():
            test = self._pickled(train=False)
        else:
            test = read_records([self.root / LOSSLESS_1000])
        return Split(test.images, test.labels, f"test-lossless-{len(test)}")

    def _pickled(self, *, train: bool) -> Labelled:
        names = [f"data_batch_{k}" for k in range(1, 6)] if train else ["test_batch"]
        return read_pickles([self.root / PICKLE / name for name in names])


def read_records(files: Sequence[Path]) -> Labelled:
    """Read files of the binary version. Raises: TrainingError naming the file."""
    parts = []
    for file in files:
        try:
            data = np.fromfile(file, np.uint8)
        except OSError as error:
            raise TrainingError(f"{file}: {error.strerror}") from None
        if data.size == 0 or data.size % RECORD:
            raise TrainingError(f"{file}: {data.size} bytes are no whole number of CIFAR-10 images")
        if (label := data[::RECORD].max()) >= CLASSES:
            raise TrainingError(f"{file}: has an image of class {label}, CIFAR-10 has {CLASSES}")
        parts.append(data.reshape(-1, RECORD))
    records = np.concatenate(parts)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Labelled(np.ascontiguousarray(images), records[:, 0].astype(np.int64))


def read_pickles(files: Sequence[Path]) -> Labelled:
    """Read files of the version for Python. Raises: TrainingError naming the file."""
    parts, labels = [], []
    for file in files:
        try:
            with file.open("rb") as opened:
                batch = _Unpickler(opened, encoding="bytes").load()
            parts.append(batch[b"data"].reshape(-1, 3, 32, 32))
            labels += batch[b"labels"]
            if (label := max(batch[b"labels"])) >= CLASSES:
                raise ValueError(f"has an image of class {label}")
        except OSError as error:
            raise TrainingError(f"{file}: {error.strerror}") from None
        except Exception as error:  # a broken pickle raises nearly anything
            raise TrainingError(f"{file}: no batch of CIFAR-10: {error}") from None
    images = np.concatenate(parts).transpose(0, 2, 3, 1)
    return Labelled(np.ascontiguousarray(images), np.asarray(labels, np.int64))


class _Unpickler(pickle.Unpickler):
    """Knows NumPy's arrays and nothing else: a pickle may call any function it can name."""

    HARMLESS = frozenset(
        {
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in self.HARMLESS:
            raise pickle.UnpicklingError(f"asks for {module_name}.{global_name}")
        return super().find_class(module_name, global_name)
