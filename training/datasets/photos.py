"""Photos of any size, decoded as the service decodes them and kept at the input's size."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from convoy.errors import ImageError
from convoy.imaging import InputSpec, decode
from convoy.processors import processor_count
from training.datasets.arrays import allocate
from training.datasets.base import Labelled, Source, Split, Targets
from training.datasets.store import Store
from training.errors import TrainingError
from training.recipe import Recipe


@dataclass(frozen=True, slots=True)
class FromFiles(Labelled):
    """Images that were decoded from files."""

    files_sha256: Sequence[str]

    def sha256(self) -> str:
        """Over the files' bytes, then the labels, in order.

        Not over the pixels, which another version of a decoder may make differently.
        """
        digest = hashlib.sha256("".join(self.files_sha256).encode())
        digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Part:
    """Photos that share a store, or some of them."""

    store: Callable[[], Store]
    """Decodes all of them at the first call."""
    files: list[Path]
    labels: Targets

    def take(self, rows: Iterable[int]) -> Part:
        """The photos of these rows."""
        rows = list(rows)
        return Part(self.store, [self.files[row] for row in rows], self.labels[rows])

    def read(self, *, lazily: bool = False) -> Labelled:
        """The pixels, too; where they are many, they may stay on disk."""
        images = cast("NDArray[np.uint8]", self.store().read(self.files, lazily=lazily))
        return FromFiles(images, self.labels, self.checksums())

    def checksums(self) -> list[str]:
        """Of each file's bytes."""
        return self.store().checksums(self.files)


class Parts(NamedTuple):
    """Which photos are for what."""

    training: Part
    validation: Part | None
    """None where it is drawn from those to train on."""
    test: Part


class Photos(Source):
    """Photos in files of their own; who has listed and divided them sets the parts."""

    _parts: Parts

    def training(self) -> Labelled:
        """All but those that are kept for validation or test."""
        return self._parts.training.read(lazily=True)

    def validation(self) -> Labelled | None:
        """Those that are kept for it, if any are."""
        return None if self._parts.validation is None else self._parts.validation.read()

    def tests(self) -> list[Split]:
        """Those that are kept for it, or the share that was held out."""
        test = self._parts.test.read()
        return [Split(test.images, test.labels, f"test-{len(test)}")]

    def copies(self) -> list[tuple[Path, Path]]:
        """Test photos of the very bytes of one to train on, with that one."""
        training, _, test = self._parts
        learnt = dict(zip(training.checksums(), training.files, strict=True))
        measured = zip(test.files, test.checksums(), strict=True)
        return [(file, learnt[sha256]) for file, sha256 in measured if sha256 in learnt]


def open_store(base: Path, files: Sequence[Path], spec: InputSpec, advice: str | None) -> Store:
    """Decode photos that are kept under the name of `base`.

    Raises: TrainingError with `advice`, if there is any, where one cannot be decoded.
    """
    store = Store.open(base, files, spec)
    if store.problems and advice is not None:
        (file, problem), *more = store.problems.items()
        others = f" ({len(more)} more cannot be decoded)" if more else ""
        raise TrainingError(f"{file}: {problem}; {advice}{others}")
    return store


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
