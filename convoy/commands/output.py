"""What the subcommands print: aligned columns, JSON lines, CSV, and progress."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TextIO

from convoy.client.errors import ClientError
from convoy.client.types import ClassScore, Result

# A path longer than this pushes its row to the right instead of widening every row.
_WIDEST = 60


class Writer(Protocol):
    """Prints one row per image, as it comes."""

    def write(self, path: str, outcome: Result | ClientError) -> None:
        """Print what became of one image."""


class TableWriter:
    """Aligned columns: file, label, probability, runner-up."""

    def __init__(self, out: TextIO, *, paths: Sequence[str], labels: Sequence[str]) -> None:
        self._out = out
        self._path = _width(["file", *map(_printable, paths)])
        self._label = _width(["label", *labels])
        self._begun = False

    def write(self, path: str, outcome: Result | ClientError) -> None:
        """Print one row, the first below a header."""
        if not self._begun:
            self._begun = True
            self._row("file", "label", "probability", "runner-up")
        if isinstance(outcome, ClientError):
            print(f"{_printable(path):{self._path}}  error: {outcome.detail}", file=self._out)
            return
        others = ", ".join(f"{one.label} {one.probability:.4f}" for one in outcome.classes[1:])
        self._row(path, outcome.label, f"{outcome.probability:.4f}", others)

    def _row(self, path: str, label: str, probability: str, others: str) -> None:
        row = f"{_printable(path):{self._path}}  {label:{self._label}}  {probability:11}  {others}"
        print(row.rstrip(), file=self._out)


class JsonWriter:
    """One JSON object a line."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, path: str, outcome: Result | ClientError) -> None:
        """Print one object."""
        row: dict[str, Any] = {"file": path}
        if isinstance(outcome, ClientError):
            row["error"] = outcome.detail
        else:
            row |= {"label": outcome.label, "probability": round(outcome.probability, 6)}
            row["classes"] = [_score(one) for one in outcome.classes]
            row |= {"model": outcome.model, "version": outcome.version}
        print(json.dumps(row), file=self._out)


class CsvWriter:
    """Comma-separated values: the file, K pairs of label and probability, the model, the error."""

    def __init__(self, out: TextIO, *, top_k: int) -> None:
        self._rows = csv.writer(_Lines(out))
        self._top_k = top_k
        pairs = [f"{name}{rank}" for rank in _ranks(top_k) for name in ("label", "probability")]
        self._rows.writerow(["file", *pairs, "model", "version", "error"])

    def write(self, path: str, outcome: Result | ClientError) -> None:
        """Print one record."""
        if isinstance(outcome, ClientError):
            self._rows.writerow([path, *[""] * (2 * self._top_k + 2), outcome.detail])
            return
        pairs = [v for one in outcome.classes for v in (one.label, f"{one.probability:.6f}")]
        self._rows.writerow([path, *pairs, outcome.model, outcome.version, ""])


class _Lines:
    """Takes the records of `csv` and ends them as lines end here.

    Told to end them so itself, `csv` would leave a carriage return in a name without quotes before
    Python 3.13.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, record: str) -> int:
        return self._out.write(record.removesuffix("\r\n") + "\n")


class Progress:
    """How far a long job is, in one line on a terminal; silent anywhere else."""

    INTERVAL = 0.2
    """Seconds between two updates, and before the first."""

    def __init__(
        self, total: int, out: TextIO, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._total = total
        self._out = out if out.isatty() else None
        self._clock = clock
        self._start = self._shown = clock()
        self._visible = False

    def clear(self) -> None:
        """Make room for a row."""
        if self._out is not None and self._visible:
            self._out.write("\r\x1b[K")
            self._out.flush()
            self._visible = False

    def update(self, done: int) -> None:
        """Show that `done` images are through, where the last update is old enough."""
        now = self._clock()
        if self._out is None or now - self._shown < self.INTERVAL:
            return
        rate = done / (now - self._start)
        left = (self._total - done) / rate
        self._out.write(f"\r\x1b[K{done}/{self._total} images, {rate:.0f}/s, {left:.0f} s left")
        self._out.flush()
        self._shown, self._visible = now, True


def print_table(rows: Iterable[Sequence[str]], out: TextIO) -> None:
    """Print rows of cells in aligned columns."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip(), file=out)


def _ranks(top_k: int) -> list[str]:
    return ["", *[f"_{rank}" for rank in range(2, top_k + 1)]]


def _score(one: ClassScore) -> dict[str, Any]:
    return {"index": one.index, "label": one.label, "probability": round(one.probability, 6)}


def _width(cells: Iterable[str]) -> int:
    return min(max(map(len, cells)), _WIDEST)


def _printable(text: str) -> str:
    """A file name may hold line breaks and escape codes; a table may not."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
