"""Arrays of numbers to pictures that stand inside a page, as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
"""[H, W, 1 or 3]"""
Map = NDArray[np.floating[Any]]
"""[H, W]"""

SIDE = 96
"""Pixels of a photo's side, at most: more than a page shows of it makes the file heavy."""

WHITE = 255
MARK = (255, 220, 0)
"""Yellow stands out from most photos."""


def photo(pixels: Pixels) -> str:
    """The data URI of a photo, made smaller where it is large."""
    if max(pixels.shape[:2]) <= SIDE:
        return _uri(_image(pixels), "PNG")
    return _uri(_image(resize(pixels)), "JPEG", quality=85)


def strip(pictures: Sequence[Pixels], columns: int) -> str:
    """The data URI of equally large pictures in rows, with white between them."""
    height, width = pictures[0].shape[:2]
    gap = max(2, width // 16)
    rows = ceil(len(pictures) / columns)
    size = rows * (height + gap) - gap, columns * (width + gap) - gap, 3
    sheet = np.full(size, WHITE, np.uint8)
    for index, picture in enumerate(pictures):
        top, left = (height + gap) * (index // columns), (width + gap) * (index % columns)
        sheet[top : top + height, left : left + width] = picture  # grey is spread over RGB
    # What is drawn has few colours: a palette halves the file.
    return _uri(Image.fromarray(sheet).quantize(128), "PNG")


def resize(pixels: Pixels) -> Pixels:
    """A photo at the size that a page shows: small ones keep their sharp pixels."""
    if max(pixels.shape[:2]) <= SIDE:
        return enlarge(pixels, SIDE // 2)
    image = _image(pixels)
    image.thumbnail((SIDE, SIDE))
    return np.asarray(image).reshape(image.height, image.width, -1)


def enlarge(pixels: Pixels, least: int) -> Pixels:
    """Repeat pixels until the shorter side has at least so many."""
    times = ceil(least / min(pixels.shape[:2]))
    return pixels.repeat(times, axis=0).repeat(times, axis=1)


def shrink(values: Map, most: int) -> Map:
    """Leave rows and columns out until the longer side has at most so many."""
    step = ceil(max(values.shape) / most)
    return values[::step, ::step]


def colour(values: Map, name: str, low: float, high: float) -> Pixels:
    """[H, W] to RGB by a colour map of matplotlib, from `low` to `high`."""
    from matplotlib import colormaps

    shares = (values - low) / max(high - low, 1e-12)
    painted: NDArray[np.float64] = np.asarray(colormaps[name](shares.clip(0, 1)))
    return (255 * painted[..., :3]).round().astype(np.uint8)  # without the opacity


def overlay(pixels: Pixels, heat: Map, strength: float) -> Pixels:
    """A photo in grey under a heat map: red where it is positive, blue where negative."""
    grey = pixels.mean(axis=2, keepdims=True).repeat(3, axis=2)
    painted = colour(heat, "RdBu_r", -strength, strength)
    blended: NDArray[np.float64] = (grey + painted) / 2
    return blended.round().astype(np.uint8)


def mark(pixels: Pixels, row: float, column: float, share: float) -> Pixels:
    """Draw a square frame around a place, all in shares of the picture's sides."""
    height, width = pixels.shape[:2]
    framed = np.repeat(pixels, 3 // pixels.shape[2], axis=2)
    top, left = (max(0, int((at - share / 2) * n)) for at, n in ((row, height), (column, width)))
    bottom = min(height - 1, int((row + share / 2) * height))
    right = min(width - 1, int((column + share / 2) * width))
    framed[[top, bottom], left : right + 1] = MARK
    framed[top : bottom + 1, [left, right]] = MARK
    return framed


def _image(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels.squeeze(axis=2) if pixels.shape[2] == 1 else pixels)


def _uri(image: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, optimize=True, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
