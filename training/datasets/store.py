"""Decoded photos on disk, so that only new or changed files are decoded at the next start.

A folder of photos has one store per input size: an array of pixels and an index beside it, which
knows every file by path, size and time of change, and those that cannot be decoded. Stores lie in
CONVOY_CACHE (by default ~/.cache/convoy) and may be deleted at any time.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convoy.errors import ImageError
from convoy.files import replace_file
from convoy.imaging import InputSpec, decode
from convoy.processors import processor_count
from training.datasets.arrays import Rows, is_large, map_array, reserve
from training.errors import TrainingError

DECODER_VERSION = 3
"""Raised when `convoy.imaging` makes other pixels of the same file; older stores are not used."""

Entry = tuple[str, int, int]
"""A file's path, size in bytes and time of change in nanoseconds."""


class _Photo(NamedTuple):
    """What is known of a file since it was read."""

    entry: Entry
    sha256: str
    problem: str | None
    """Why it cannot be decoded, if it cannot."""


class _Index(NamedTuple):
    """What a store holds."""

    file: Path
    photos: list[_Photo]
    pixels: NDArray[np.uint8]
    """Mapped: stays readable when another process replaces the file."""

    def to_json(self) -> bytes:
        """All but the pixels."""
        return json.dumps({"pixels": self.file.name, "photos": self.photos}).encode()


class Store:
    """The photos of one folder, decoded."""

    def __init__(self, index: _Index) -> None:
        self._index = index
        self._rows = {photo.entry[0]: row for row, photo in enumerate(index.photos)}

    @property
    def problems(self) -> dict[str, str]:
        """Why a file cannot be decoded, by its path."""
        return {photo.entry[0]: photo.problem for photo in self._index.photos if photo.problem}

    @classmethod
    def open(cls, base: Path, files: Sequence[Path], spec: InputSpec) -> Store:
        """Decode what the store does not hold yet. Raises: TrainingError naming a path."""
        entries = [_entry(file) for file in files]
        name = _digest([str(base.resolve()), spec.model_dump_json(), DECODER_VERSION])
        index = cache_folder() / f"{name}.json"
        before = _read_index(index)
        file = index.with_name(f"{name}-{_digest(entries)}.npy")
        if before.file == file:
            return cls(before)
        try:
            index.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(index.parent)
            made = _write_pixels(file, entries, spec, before)
            replace_file(index, made.to_json())
            for old in set(index.parent.glob(f"{name}-*.npy")) - {file}:
                old.unlink(missing_ok=True)
        except OSError as error:
            raise TrainingError(
                f"{index.parent}: {error.strerror}; set CONVOY_CACHE to a folder with room"
            ) from None
        return cls(made)

    def read(self, files: Sequence[Path], *, lazily: bool = False) -> NDArray[np.uint8] | Rows:
        """The pixels of some files, [N, H, W, C]; where they are many, they may stay on disk."""
        view = Rows(self._index.file, self._rows_of(files), self._index.pixels)
        return view if lazily and is_large(view.shape) else view[:]

    def checksums(self, files: Sequence[Path]) -> list[str]:
        """Of each file's bytes, as they were when it was decoded, SHA-256."""
        return [self._index.photos[row].sha256 for row in self._rows_of(files)]

    def _rows_of(self, files: Sequence[Path]) -> NDArray[np.int64]:
        return np.array([self._rows[str(file)] for file in files], np.int64)


def cache_folder() -> Path:
    """Where stores lie."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("CONVOY_CACHE") or Path(home) / "convoy")


def _write_pixels(file: Path, entries: list[Entry], spec: InputSpec, before: _Index) -> _Index:
    """Write a new array whole or not at all."""
    work = file.with_name(f".writing-{os.getpid()}-{file.name}")
    try:
        with _claimed(work) as opened:
            new = np.lib.format.open_memmap(work, "w+", np.uint8, (len(entries), *spec.shape))
            reserve(opened.fileno(), work.stat().st_size)
            photos = _fill(new, entries, spec, before)
            new.flush()
            pixels = map_array(work)
            os.replace(work, file)
    finally:
        work.unlink(missing_ok=True)
    return _Index(file, photos, pixels)


def _claimed(work: Path) -> BinaryIO:
    """A new file that `_remove_abandoned` leaves alone until it is closed."""
    while True:
        opened = work.open("wb")
        with suppress(OSError):  # not every file system has locks
            fcntl.flock(opened, fcntl.LOCK_EX)
        if os.fstat(opened.fileno()).st_nlink:
            return opened
        opened.close()  # it was removed before it was locked


def _remove_abandoned(folder: Path) -> None:
    """Remove the arrays that killed processes began: those that nobody has locked."""
    for work in folder.glob(".writing-*.npy"):
        with suppress(OSError), work.open("r+b") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            work.unlink()


def _fill(
    new: NDArray[np.uint8], entries: Sequence[Entry], spec: InputSpec, before: _Index
) -> list[_Photo]:
    """Copy what the array before holds and decode the rest."""
    known = {photo.entry: row for row, photo in enumerate(before.photos)}

    def fill(row: int, entry: Entry) -> _Photo:
        if entry not in known:
            return _decode(entry, spec, new[row])
        new[row] = before.pixels[known[entry]]
        return before.photos[known[entry]]

    pool = ThreadPoolExecutor(processor_count())  # decoding releases the interpreter's lock
    try:
        return list(pool.map(fill, range(len(entries)), entries))
    finally:
        pool.shutdown(cancel_futures=True)


def _decode(entry: Entry, spec: InputSpec, out: NDArray[np.uint8]) -> _Photo:
    """Read a file into its place. Raises: TrainingError where it cannot be read."""
    try:
        data = Path(entry[0]).read_bytes()
    except OSError as error:
        raise TrainingError(f"{entry[0]}: {error.strerror}") from None
    problem = None
    try:
        out[...] = decode(data, spec)
    except ImageError as error:
        problem = str(error)
    return _Photo(entry, hashlib.sha256(data).hexdigest(), problem)


def _read_index(index: Path) -> _Index:
    """What the store holds: nothing where there is no whole one, as it is only a cache."""
    try:
        content = json.loads(index.read_bytes())
        file = index.with_name(content["pixels"])
        photos = [
            _Photo((str(path), int(size), int(time)), str(sha256), problem)
            for (path, size, time), sha256, problem in content["photos"]
        ]
        found = _Index(file, photos, map_array(file))
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        found = None
    if found is None or len(found.pixels) != len(found.photos):
        return _Index(index.with_suffix(".npy"), [], np.empty((0, 0, 0, 0), np.uint8))
    return found


def _entry(file: Path) -> Entry:
    try:
        status = file.stat()
    except OSError as error:
        raise TrainingError(f"{file}: {error.strerror}") from None
    return str(file), status.st_size, status.st_mtime_ns


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
