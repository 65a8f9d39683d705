"""Every kind of data set in the files that its source reads: made up, or cut from a real one."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from training.datasets.cifar10 import BINARY
from training.recipe import Recipe

PER_CLASS = 6


def write_source(recipe: Recipe, root: Path) -> Path:
    """Images of noise, each class with a brightness of its own; what --data takes."""
    root.mkdir(parents=True)
    return WRITERS[recipe.source](recipe, root)


def noise(classes: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (classes * PER_CLASS, *shape), and the classes by turns."""
    labels = np.arange(classes * PER_CLASS, dtype=np.uint8) % classes
    levels = (labels * (200 // classes)).reshape(-1, *(1 for _ in shape))
    values = np.random.default_rng(0).integers(0, 50, (len(labels), *shape))
    return (levels + values).astype(np.uint8), labels


def _cifar10(recipe: Recipe, root: Path) -> Path:
    images, labels = noise(10, (3072,))
    (root / BINARY).mkdir()
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        (root / BINARY / f"{name}.bin").write_bytes(np.column_stack([labels, images]).tobytes())
    return root


def _idx(folder: str) -> Callable[[Recipe, Path], Path]:
    def write(recipe: Recipe, root: Path) -> Path:
        images, labels = noise(10, (28, 28))
        raw = root / folder / "raw"
        raw.mkdir(parents=True)
        for part in ("train", "t10k"):
            for values, name in ((images, "images-idx3"), (labels, "labels-idx1")):
                # Two zeros, the code of uint8, the number of axes; then their lengths.
                head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
                (raw / f"{part}-{name}-ubyte").write_bytes(head + values.tobytes())
        return root

    return write


def _folder(recipe: Recipe, root: Path) -> Path:
    for image, label, number in zip(*noise(2, (40, 50, 3)), range(2 * PER_CLASS), strict=True):
        (root / str(label)).mkdir(exist_ok=True)
        Image.fromarray(image).save(root / str(label) / f"{number}.png")
    return root


def _table(recipe: Recipe, root: Path) -> Path:
    rows = ["file,labels"]
    for file in sorted(_folder(recipe, root).glob("*/*.png")):
        # Every third has both labels.
        labels = "0;1" if int(file.stem) % 3 == 0 else file.parent.name
        rows.append(f"{file.relative_to(root)},{labels}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root / "labels.csv"


WRITERS: dict[str, Callable[[Recipe, Path], Path]] = {
    "cifar10": _cifar10,
    "mnist": _idx("MNIST"),
    "fashion-mnist": _idx("FashionMNIST"),
    "garments": _idx("FashionMNIST"),
    "folder": _folder,
    "table": _table,
}


def cut_mnist(data: Path, root: Path, train: int, test: int) -> Path:
    """MNIST's first training and test images; what --data takes."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, rows in (("train", train), ("t10k", test)):
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):
            name = f"{part}-{kind}"
            cut_idx(data / "mnist" / "MNIST" / "raw" / name, raw / name, rows)
    return root


def cut_idx(source: Path, target: Path, rows: int) -> None:
    """The first rows of a file of MNIST's format."""
    data = source.read_bytes()
    (dimensions,) = struct.unpack_from(">3xB", data)
    count, *shape = struct.unpack_from(f">{dimensions}L", data, 4)
    start, size = 4 + 4 * dimensions, int(np.prod(shape))
    header = data[:4] + struct.pack(">L", min(rows, count)) + data[8:start]
    target.write_bytes(header + data[start : start + rows * size])
