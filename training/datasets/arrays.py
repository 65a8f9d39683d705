"""Arrays of images that may be larger than the memory."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError

MEMORY_LIMIT = 4 * 2**30
"""Bytes of decoded pixels above which they stay on disk instead of in memory."""

CHUNK = 256
"""Images copied at once."""


def is_large(shape: tuple[int, ...]) -> bool:
    """Whether so many pixels stay on disk."""
    return int(np.prod(shape)) > MEMORY_LIMIT


class Rows:
    """Some images of a store that stay on disk: answers what is asked of an array of them.

    Only the name of the file goes to another process, which is to look at once: the store may be
    replaced later.
    """

    def __init__(
        self, file: Path, rows: NDArray[np.int64], pixels: NDArray[np.uint8] | None = None
    ) -> None:
        self.file, self.rows = file, rows
        self._pixels = pixels

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """All images of the store."""
        if self._pixels is None:
            self._pixels = map_array(self.file)
        return self._pixels

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, C)."""
        return (len(self.rows), *self.pixels.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        return gather(self.pixels, self.rows[key])

    def __getstate__(self) -> dict[str, Any]:
        return {"file": self.file, "rows": self.rows, "_pixels": None}

    def view(self, rows: NDArray[np.int64]) -> Rows:
        """Some of these, on disk still."""
        return Rows(self.file, self.rows[rows], self._pixels)


def map_array(file: Path) -> NDArray[np.uint8]:
    """An array on disk, of which only what is looked at is read; changes stay in memory."""
    mapped: NDArray[np.uint8] = np.load(file, mmap_mode="c")
    return mapped


def allocate(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Room for images: in memory, or in a temporary file where they are many.

    Raises: TrainingError where the disk is full.
    """
    if not is_large(shape):
        return np.empty(shape, np.uint8)
    size = int(np.prod(shape))
    try:
        with tempfile.TemporaryFile() as file:  # lives on, nameless, as long as the mapping does
            reserve(file.fileno(), size)
            return np.memmap(file, np.uint8, "w+", shape=shape)
    except OSError as error:
        raise TrainingError(
            f"{tempfile.gettempdir()}: {error.strerror}; set TMPDIR to a folder with room"
        ) from None


def reserve(file: int, size: int) -> None:
    """Take so many bytes of disk. Raises: OSError where it is full.

    A mapped file that finds no room later ends the process without a word (SIGBUS).
    """
    if hasattr(os, "posix_fallocate"):  # not on macOS
        os.posix_fallocate(file, 0, size)


def gather(pixels: NDArray[np.uint8], rows: Any) -> NDArray[np.uint8]:
    """A copy of some rows, however many."""
    if np.ndim(rows) == 0:
        return np.array(pixels[rows])
    copied = allocate((len(rows), *pixels.shape[1:]))
    for start in range(0, len(rows), CHUNK):
        copied[start : start + CHUNK] = pixels[rows[start : start + CHUNK]]
    return copied
