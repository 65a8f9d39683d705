"""The images of a request, whatever protocol it came by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from service.cache import Content
from service.served import ServedModel
from service.session import Rows

FILE, PIXELS = b"f", b"p"
"""Kinds of content, told apart by the response cache."""


class Images(NamedTuple):
    """The images of a request, as pixels or as files to be decoded."""

    rows: Rows
    """Pixels [N, H, W, C] of all of them; what `files` and `steps` fill is still to be written."""
    files: Sequence[tuple[int, bytes]] = ()
    """Pairs of row and encoded bytes."""
    field: str = "images"
    """What errors name."""
    steps: Iterable[Callable[[], None]] = ()
    """What else fills `rows`, each in a thread, in its turn."""
    wanted: Sequence[int] | None = None
    """The rows that are to run; None: all of them."""

    @property
    def size(self) -> int:
        """How many are to run."""
        return len(self.rows) if self.wanted is None else len(self.wanted)

    def only(self, wanted: Sequence[int]) -> Images:
        """These rows of them, in this order; errors go on naming them by their places."""
        if len(wanted) == len(self.rows):
            return self
        chosen = set(wanted)
        files = [one for one in self.files if one[0] in chosen]
        return self._replace(files=files, wanted=wanted)

    def filled(self) -> Rows:
        """Pixels of those that are to run, once all is written."""
        return self.rows if self.wanted is None else self.rows[self.wanted]

    def contents(self) -> list[Content]:
        """Kind and bytes of each."""
        flat = self.rows.reshape(len(self.rows), -1)
        contents: list[Content] = [(PIXELS, row.data) for row in flat]
        for row, data in self.files:
            contents[row] = (FILE, data)
        return contents


def empty_rows(model: ServedModel, count: int) -> Rows:
    """Room for the pixels of as many images, uint8 [count, H, W, C]."""
    return np.empty((count, *model.spec.shape), np.uint8)
