"""A tiny image folder that a network of a few filters learns within seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from convoy.bundle import Bundle
from training.datasets import open_source, split_training
from training.export import export_run
from training.recipe import Recipe, parse_recipe
from training.runs import Run

COLOURS = {"blue": (40, 40, 200), "green": (40, 200, 40), "red": (200, 40, 40)}


def write_photos(root: Path, count: int, seed: int = 0) -> Path:
    """`count` noisy pictures of each colour, as root/<colour>/NN.png."""
    random = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.array(colour) + random.integers(-40, 41, (20, 24, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number:02}.png")
    return root


def export(run: Run, models: Path, data: Path, **options: Any) -> Bundle:
    """Write a bundle as `convoy-train export` does, its images read anew."""
    source = open_source(run.recipe, data)
    return export_run(run, source, split_training(source, run.recipe), models, **options)


def tiny_recipe(**changes: object) -> Recipe:
    """A recipe whose epochs take a moment; much that is random is on."""
    values: dict[str, object] = {
        "name": "colours",
        "source": "folder",
        "image_size": 16,
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 0.05,
        "seed": 3,
        "network": {"name": "cnn", "filters": [8, 8], "hidden": 8},
        "augmentation": {"flip": True, "crop_padding": 2, "jpeg": 0.5},
    }
    return parse_recipe(values | changes, where="test")
