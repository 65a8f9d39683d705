"""Files that a command leaves: whole or not at all, and what is wrong where one cannot be."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from convoy.files import replace_file
from training.errors import TrainingError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_file(file: Path, data: bytes) -> None:
    """Write a file. Raises: TrainingError where it cannot be written."""
    try:
        replace_file(file, data)
    except OSError as error:
        raise TrainingError(f"{file}: cannot be written: {error.strerror}") from None


def write_png(figure: Figure, file: Path) -> None:
    """Draw a figure into a file. Raises: TrainingError where it cannot be written."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    write_file(file, buffer.getvalue())
