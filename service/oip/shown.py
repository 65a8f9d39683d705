"""What a caller sent, as far as a message to it or to the log needs."""

from __future__ import annotations

from collections.abc import Sequence

MOST_CHARACTERS = 64
MOST_DIMENSIONS = 8


def shortened(text: str) -> str:
    """The beginning of a text that may have megabytes."""
    return text[:MOST_CHARACTERS]


def quoted(text: str) -> str:
    """The beginning of a text, in quotes."""
    return repr(shortened(text))


def dimensions(shape: Sequence[object]) -> str:
    """The first sizes of a shape, in brackets."""
    more = ", ..." if len(shape) > MOST_DIMENSIONS else ""
    return f"[{', '.join(map(str, shape[:MOST_DIMENSIONS]))}{more}]"
