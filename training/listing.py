"""What `convoy-train runs` prints: the runs of a folder, from their small files alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from convoy.bundle import LOG_FILE
from training.errors import TrainingError, first_line
from training.metrics import describe_share, share_interval
from training.progress import show
from training.runs import ENVIRONMENT_FILE, RECIPE_FILE, Log, best_entry

HEAD = (
    "run", "started", "recipe", "network", "epochs", "of", "best", "accuracy", "loss",
    "speed", "minutes",
)  # fmt: skip
"""Keys to sort by."""
SHOWN = ("run", "network", "epochs", "best", "accuracy", "loss", "speed", "minutes")
"""Of these, what a table has room for; by default, a run's name says the rest."""
DESCENDING = frozenset({"started", "epochs", "accuracy", "speed"})
"""The best or newest first."""

Row = Mapping[str, Any]


def list_runs(folder: Path, *, sort: str = "started") -> list[Row]:
    """A row for each run in `folder`, sorted; what a run has not reached yet is None and last.

    Raises: TrainingError where there is no such folder, no run in it, or no such key.
    """
    if sort not in HEAD:
        raise TrainingError(f"--sort {sort}: no such column, only {', '.join(HEAD)}")
    if not folder.is_dir():
        raise TrainingError(f"{folder}: no such folder; name the one that holds your runs")
    rows = []
    for file in sorted(folder.glob(f"*/{RECIPE_FILE}")):
        try:
            rows.append(describe_run(file.parent))
        except TrainingError as error:
            show(f"convoy-train: left out {error}")
    if not rows:
        raise TrainingError(f"{folder}: no runs in it; convoy-train fit makes one")
    reached = [row for row in rows if row[sort] is not None]
    reached.sort(key=lambda row: row[sort], reverse=sort in DESCENDING)
    return reached + [row for row in rows if row[sort] is None]


def describe_run(path: Path) -> Row:
    """A run's figures. Raises: TrainingError where the folder is no whole run's."""
    recipe, environment = (_read(path / name) for name in (RECIPE_FILE, ENVIRONMENT_FILE))
    log = _read_lines(path / LOG_FILE)
    try:
        return _row(path, recipe, environment, log)
    except (KeyError, TypeError) as error:
        raise TrainingError(f"{path}: no run's folder: {first_line(error)}") from None


def _row(path: Path, recipe: Row, environment: Row, log: Log) -> Row:
    best = best_entry(log) if log else {}
    accuracy, images = best.get("validation_accuracy"), environment["validation_images"]
    seconds = sum(entry["seconds"] for entry in log)
    return {
        "run": path.name,
        "started": environment["started"],
        "recipe": recipe["name"],
        "network": recipe["network"]["name"],
        "epochs": len(log),
        "of": recipe["epochs"],
        "best": best.get("epoch"),
        "accuracy": accuracy,
        "accuracy_interval": None if accuracy is None else share_interval(accuracy, images),
        "validation_images": images,
        "loss": best.get("validation_loss"),
        "speed": log[-1]["images_per_second"] if log else None,
        "minutes": seconds / 60 if log else None,
    }


def describe_runs(rows: Sequence[Row]) -> str:
    """A table for people: best epoch, its accuracy with the 95 % interval and loss on validation,
    images/s, minutes."""
    table = [list(SHOWN), *([_cell(key, row) for key in SHOWN] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ("  ".join(map(str.ljust, line, widths)) for line in table)
    return "\n".join(line.rstrip() for line in lines)


def _cell(key: str, row: Row) -> str:
    if row[key] is None:
        return "-"
    if key == "epochs":
        return f"{row['epochs']}/{row['of']}"
    if key == "accuracy":
        return describe_share(row["accuracy"], row["validation_images"])
    formats = {"loss": "{:.4f}", "speed": "{:.0f}/s", "minutes": "{:.1f}"}
    return formats.get(key, "{}").format(row[key])


def _read(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise TrainingError(f"{file}: not readable: {error}") from None
    return content


def _read_lines(file: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in file.read_bytes().splitlines()]
    except FileNotFoundError:  # has not begun
        return []
    except (OSError, ValueError) as error:
        raise TrainingError(f"{file}: not readable: {error}") from None
