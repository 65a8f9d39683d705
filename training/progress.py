"""What a person sees of a run that is going on: a bar within each epoch, a line after it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn

from tqdm import tqdm

from training.metrics import describe_share
from training.recipe import Recipe

if TYPE_CHECKING:
    from training.datasets import Splits

HEAD = (
    "  epoch   loss  train (95% interval)    validation (95% interval)  images/s  waiting  seconds"
)
"""Above the epochs' lines. `waiting`: the share of the time that the loop waited for data."""


def progress_bar(steps: int, recipe: Recipe, epoch: int, *, shown: bool) -> tqdm[NoReturn]:
    """A bar with images/s and the time left, where someone watches."""
    return tqdm(
        total=steps, desc=f"epoch {epoch}/{recipe.epochs}", unit="img",
        unit_scale=recipe.batch_size, leave=False, disable=not (shown and sys.stderr.isatty()),
        mininterval=0.5, dynamic_ncols=True,
    )  # fmt: skip


def show(line: str) -> None:
    """Print a line above the bar."""
    tqdm.write(line, file=sys.stderr)


def describe_epoch(entry: Mapping[str, float], epochs: int, splits: Splits) -> str:
    """A log's entry as a line below `HEAD`."""
    number = f"{entry['epoch']}/{epochs}"
    train = describe_share(entry["train_accuracy"], len(splits.train))
    validation = describe_share(entry["validation_accuracy"], len(splits.validation))
    return (
        f"{number:>7}  {entry['train_loss']:5.3f}  {train:22}  {validation:25}  "
        f"{entry['images_per_second']:8.0f}  {entry['data_wait']:7.0%}  {entry['seconds']:7.0f}"
    )
