"""A sheet of training images beside what augmentation makes of them, to look at before training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from training.augment import make_augmentation
from training.datasets import Labelled, Source
from training.files import write_png
from training.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL = 1.2
"""Inches of a picture's side."""


def write_preview(
    source: Source, recipe: Recipe, file: Path, *, images: int, versions: int
) -> None:
    """Draw `images` training images, each with `versions` augmented ones, into a PNG file.

    Raises: TrainingError where the file cannot be written.
    """
    training = source.training()
    rows = pick(training, images)
    sheet = augmented(training.images[rows], recipe, versions)
    figure = draw(sheet, names(source.labels, training.labels[rows]))
    write_png(figure, file)


def pick(data: Labelled, count: int) -> NDArray[np.int64]:
    """Rows of `count` images that stand apart, as sets are often sorted by class."""
    return np.linspace(0, len(data) - 1, min(count, len(data))).astype(np.int64)


def augmented(images: NDArray[np.uint8], recipe: Recipe, versions: int) -> NDArray[np.uint8]:
    """[N, H, W, C] to [N, 1 + versions, H, W, C]: each image as it is, then augmented."""
    originals = torch.from_numpy(images).permute(0, 3, 1, 2)
    augment = make_augmentation(recipe.augmentation, *originals.shape[2:])
    torch.manual_seed(recipe.seed)
    count = len(originals)
    columns = [originals, *(augment(originals, augment.draw(count)) for _ in range(versions))]
    return torch.stack(columns, dim=1).permute(0, 1, 3, 4, 2).numpy()


def names(labels: tuple[str, ...], targets: NDArray[np.integer]) -> list[str]:
    """The label of each image, or its labels where there may be several."""
    if targets.ndim == 1:
        return [labels[index] for index in targets]
    return [", ".join(labels[index] for index in np.flatnonzero(row)) for row in targets]


def draw(sheet: NDArray[np.uint8], titles: list[str]) -> Figure:
    """A row of pictures for each title, the original first."""
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    rows, columns = sheet.shape[:2]
    figure = Figure(figsize=(CELL * columns, CELL * rows * 1.15), layout="constrained")
    for row, column in np.ndindex(rows, columns):
        axis = figure.add_subplot(rows, columns, row * columns + column + 1)
        axis.imshow(sheet[row, column], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_axis_off()
        if column == 0:
            axis.set_title(titles[row], fontsize=8, parse_math=False)  # "$" is a dollar sign
    figure.axes[1].set_title("augmented", fontsize=8, color="grey")
    return figure
