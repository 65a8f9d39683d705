"""Photos with any number of labels each, from a CSV file with a row per photo:

file,labels
2024/beach.jpg,sea;sand;dog
2024/desk.jpg,

A third column `split` may say of each whether it is for `train`, `validation` or `test`.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from training.datasets.base import stratified_split
from training.datasets.photos import Part, Parts, Photos, open_store, photo_spec
from training.errors import TrainingError
from training.recipe import Recipe

COLUMNS = ("file", "labels")
SPLIT = "split"
SPLITS = ("train", "validation", "test")
SEPARATOR = ";"
ADVICE = "repair it, or remove its row"
FEWEST_IMAGES = 3
"""Of a label: one to learn it from, one to choose by, one to measure."""


class Row(NamedTuple):
    """What the file says of a photo."""

    labels: frozenset[str]
    split: str
    """`train`, too, where the file does not say."""


Listed = dict[Path, Row]
"""Every photo, in the file's order."""


class Table(Photos):
    """Photos listed in a CSV file, relative to its folder; every label that occurs, sorted."""

    def __init__(self, file: Path, recipe: Recipe) -> None:
        self.spec = photo_spec(recipe)
        rows = read_table(file)
        self.labels = label_names(file, rows)
        targets = np.array(
            [[name in row.labels for name in self.labels] for row in rows.values()], np.uint8
        )
        splits = np.array([row.split for row in rows.values()])
        training, validation, test = (np.flatnonzero(splits == name) for name in SPLITS)
        self.draws_test = not len(test)
        if self.draws_test:
            held, rest = stratified_split(targets[training], recipe.test_share, recipe.seed)
            test, training = training[held], training[rest]
        files = list(rows)
        whole = Part(cache(partial(open_store, file, files, self.spec, ADVICE)), files, targets)
        chosen_by = whole.take(validation) if len(validation) else None
        self._parts = Parts(whole.take(training), chosen_by, whole.take(test))

    @classmethod
    def open(cls, recipe: Recipe, root: Path, *, download: bool) -> Self:
        """Read the CSV file at `root`; the photos are read later. Raises: TrainingError."""
        return cls(root, recipe)


def read_table(file: Path) -> Listed:
    """Every row of a CSV file. Raises: TrainingError naming the line."""
    rows: Listed = {}
    for where, cells in _cells(file):
        photo = file.parent / cells["file"]
        if not os.path.isfile(photo):  # false of a name that is too long for one, too
            raise TrainingError(f"{where}: {photo}: no such file; mend the path or remove the row")
        photo = photo.resolve()  # the same by whatever way it is reached
        if photo in rows:
            raise TrainingError(f"{where}: {photo} stands twice; put all of its labels in one row")
        split = cells.get(SPLIT, SPLITS[0]).strip()
        if split not in SPLITS:
            raise TrainingError(f"{where}: unknown split {split!r}; write {' or '.join(SPLITS)}")
        names = map(str.strip, cells["labels"].split(SEPARATOR))
        rows[photo] = Row(frozenset(filter(None, names)), split)
    if not rows:
        raise TrainingError(f"{file}: holds no rows; write one for each photo, as file,labels")
    return rows


def label_names(file: Path, rows: Listed) -> tuple[str, ...]:
    """All labels, sorted. Raises: TrainingError naming one that too few photos have."""
    counts = Counter(name for row in rows.values() for name in row.labels)
    if not counts:
        raise TrainingError(f"{file}: no photo has a label; write them as one;another")
    name, count = min(sorted(counts.items()), key=lambda item: item[1])
    if count < FEWEST_IMAGES:
        raise TrainingError(
            f"{file}: label {name!r} is on {count} photo{'s' * (count != 1)}; "
            f"it takes {FEWEST_IMAGES} to learn, choose and measure by: add some or remove it"
        )
    learnt = {name for row in rows.values() if row.split == SPLITS[0] for name in row.labels}
    if unlearnt := sorted(set(counts) - learnt):
        raise TrainingError(
            f"{file}: label {unlearnt[0]!r} is on no photo of split train: add some"
        )
    return tuple(sorted(counts))


def _cells(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Where a row stands, and its cells by column."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.DictReader(opened, strict=True)
            columns = reader.fieldnames or ()
            _check_columns(file, columns)
            for row in reader:
                where = f"{file}, line {reader.line_num}"
                if None in row or None in row.values():
                    raise TrainingError(f"{where}: not {len(columns)} cells; quote a comma")
                yield where, row
    except OSError as error:
        raise TrainingError(f"{file}: {error.strerror}; --data names the CSV file") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise TrainingError(f"{file}: not a CSV file in UTF-8: {error}") from None


def _check_columns(file: Path, found: Sequence[str]) -> None:
    if unknown := [column for column in found if column not in (*COLUMNS, SPLIT)]:
        raise TrainingError(f"{file}: unknown column {unknown[0]!r}; it takes file, labels, split")
    if missing := [column for column in COLUMNS if column not in found]:
        raise TrainingError(f"{file}: has no column {missing[0]!r}; the first line is file,labels")
