"""What a run leaves to look at: TensorBoard's event files and a picture of its curves.

Both are drawn from the log, so whatever they show can be drawn again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.errors import TrainingError
from training.files import write_png
from training.recipe import Recipe
from training.runs import Log

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

EVENTS_FOLDER = "tensorboard"
CURVES_FILE = "curves.png"


class Tracker:
    """Takes every epoch's entry of the log."""

    def __init__(self, writer: SummaryWriter | None) -> None:
        self._writer = writer

    def add(self, entry: Mapping[str, Any]) -> None:
        """Write an epoch's figures where TensorBoard finds them at once. Raises: TrainingError."""
        if self._writer is None:
            return
        with writing(self._writer.log_dir):
            for key, value in entry.items():
                if key != "epoch":
                    self._writer.add_scalar(scalar_name(key), value, entry["epoch"])
            self._writer.flush()


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Raises: TrainingError where the disk refuses."""
    try:
        yield
    except OSError as error:
        raise TrainingError(f"{path}: {error.strerror}") from None


@contextmanager
def tracking(path: Path, recipe: Recipe, log: Log, *, writes: bool = True) -> Iterator[Tracker]:
    """Track a run in its folder; its curves are drawn at the end, whatever ends it.

    `log` grows in place; what it holds at first is of a run that goes on. Of many processes only
    one `writes`.

    Raises: TrainingError where the disk refuses.
    """
    if not writes:
        yield Tracker(None)
        return
    from torch.utils.tensorboard import SummaryWriter

    with writing(path / EVENTS_FOLDER):
        # What an interrupted run wrote after its checkpoint is no part of the one that goes on.
        writer = SummaryWriter(path / EVENTS_FOLDER, purge_step=len(log) + 1)
        if not log:
            text = json.dumps(recipe.model_dump(mode="json"), indent=2)
            writer.add_text("recipe", f"```\n{text}\n```")
    try:
        yield Tracker(writer)
    finally:
        with writing(path / EVENTS_FOLDER):
            writer.close()
        if log:
            draw_curves(log, path / CURVES_FILE)


def scalar_name(key: str) -> str:
    """A key of the log as TensorBoard groups it: `train_loss` is `loss/train`."""
    part, _, what = key.partition("_")
    return f"{what}/{part}" if part in ("train", "validation") else f"run/{key}"


def draw_curves(log: Log, file: Path) -> None:
    """Loss, accuracy and learning rate by epoch, as a PNG. Raises: TrainingError."""
    from matplotlib.figure import Figure  # not pyplot: no global state, no display
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 3.2), layout="constrained")
    epochs = [entry["epoch"] for entry in log]
    panels = (
        ("loss", ("train_loss", "validation_loss")),
        ("accuracy", ("train_accuracy", "validation_accuracy")),
        ("learning rate", ("learning_rate",)),
    )
    for place, (title, keys) in enumerate(panels, start=1):
        axis = figure.add_subplot(1, len(panels), place)
        for key in keys:
            label = key.partition("_")[0] if len(keys) > 1 else None
            axis.plot(epochs, [entry[key] for entry in log], marker=".", label=label)
        axis.set(xlabel="epoch", ylabel=title)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.grid(alpha=0.3)
        if len(keys) > 1:
            axis.legend()
    write_png(figure, file)
