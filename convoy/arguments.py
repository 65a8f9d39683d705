"""Numbers on a command line, as the types that argparse takes."""

from __future__ import annotations

import argparse
import math


def whole(text: str, *, least: int = 0) -> int:
    """A whole number of 31 bits. Raises: ArgumentTypeError."""
    number = int(text) if text.isascii() and text.isdigit() else -1
    if not least <= number < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least}")
    return number


def count(text: str) -> int:
    """A whole number from 1. Raises: ArgumentTypeError."""
    return whole(text, least=1)


def number_or_label(text: str) -> int | str:
    """A version: a whole number from 1, or a label. Raises: ArgumentTypeError."""
    return text if text[:1].isalpha() else count(text)


def positive(text: str) -> float:
    """A number above 0. Raises: ArgumentTypeError."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not (number > 0 and math.isfinite(number)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number
