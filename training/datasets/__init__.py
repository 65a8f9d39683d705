"""Where images come from: one table of sources, each in a file of its own."""

from __future__ import annotations

from pathlib import Path

from training.datasets.base import Labelled, Source, Split, Splits, split_training
from training.datasets.cifar10 import Cifar10
from training.datasets.folder import Folder
from training.datasets.garments import Garments
from training.datasets.idx import FashionMnist, Mnist
from training.datasets.table import Table
from training.recipe import Recipe

SOURCES: dict[str, type[Source]] = {
    "cifar10": Cifar10,
    "mnist": Mnist,
    "fashion-mnist": FashionMnist,
    "garments": Garments,
    "folder": Folder,
    "table": Table,
}

__all__ = ["SOURCES", "Labelled", "Source", "Split", "Splits", "open_source", "split_training"]


def open_source(recipe: Recipe, root: Path, *, download: bool = False) -> Source:
    """Open the recipe's source under `root`. Raises: TrainingError naming what is missing."""
    return SOURCES[recipe.source].open(recipe, root, download=download)
