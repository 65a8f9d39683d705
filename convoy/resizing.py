"""Images to the size of a model's input: by Pillow's rule, and faster with cykooz.resizer.

`convoy.imaging` is what to use. cykooz.resizer (the Rust crate fast_image_resize) follows the
rule of Pillow's `resize` several times as fast, but weighs with 16 bits, not 32, so that some
values in a thousand come out a level off, or rarely two. It comes with the extras `serve` and
`train` where it has wheels; everywhere else Pillow does it.
"""

from __future__ import annotations

import math
import threading
from typing import Literal

from PIL import Image

try:
    from cykooz_resizer import CropBox, FilterType, ResizeAlg, ResizeOptions, Resizer
except ImportError:
    Resizer = None

Interpolation = Literal["bilinear", "bicubic"]
Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
# From how far to each side a filter takes pixels: in those of the result when shrinking, else of
# the source.
_REACH = {"bilinear": 1, "bicubic": 2}
# Shrink by a whole factor first while three times the target remain: large images cost a third, and
# the result differs by a level or two.
_REDUCING_GAP = 3.0
# Where both images have fewer pixels, resizing is so small a part of decoding that nothing is
# gained, and the result stays Pillow's own.
_FEW_PIXELS = 2**15


class _Resampler(threading.local):
    """cykooz.resizer, one for each thread: those that share one take turns."""

    def __init__(self) -> None:
        self._resizer = Resizer()
        self._kernels = {
            "bilinear": ResizeAlg.convolution(FilterType.bilinear),
            "bicubic": ResizeAlg.convolution(FilterType.catmull_rom),
        }

    def run(
        self, image: Image.Image, size: tuple[int, int], interpolation: Interpolation, box: Box
    ) -> Image.Image:
        left, top, right, bottom = box
        crop = CropBox(left, top, right - left, bottom - top)
        options = ResizeOptions(self._kernels[interpolation], crop_box=crop)
        result = Image.new(image.mode, size, None)  # all of it will be written over
        self._resizer.resize_pil(image, result, options)
        return result


_resampler = _Resampler() if Resizer else None


def resize(
    image: Image.Image, size: tuple[int, int], interpolation: Interpolation, box: Box
) -> Image.Image:
    """Resample a part of an image in mode "L" or "RGB"; antialiased when shrinking.

    `size` is (width, height), in pixels. Releases the interpreter's lock.
    """
    (left, top, right, bottom), (width, height) = box, size
    shrinking = max((right - left) / width, (bottom - top) / height)
    few = max(image.width * image.height, width * height) < _FEW_PIXELS
    if _resampler is None or few or shrinking >= 2 * _REDUCING_GAP:
        return image.resize(size, _RESAMPLING[interpolation], box, _REDUCING_GAP)
    # Both round after each axis. The resizer would always begin with the columns; in another order
    # than Pillow's every tenth value is a level off. The condition is Pillow's since its version 13
    # (Resample.c).
    if image.height - height > max(2 * (image.width - width), 0):
        first, last = _needed(left, right, width, image.width, interpolation)
        image = _resampler.run(
            image, (last - first, height), interpolation, (first, top, last, bottom)
        )
        return _resampler.run(image, size, interpolation, (left - first, 0, right - first, height))
    first, last = _needed(top, bottom, height, image.height, interpolation)
    image = _resampler.run(image, (width, last - first), interpolation, (left, first, right, last))
    return _resampler.run(image, size, interpolation, (0, top - first, width, bottom - first))


def _needed(
    begin: float, end: float, length: int, limit: int, interpolation: Interpolation
) -> tuple[int, int]:
    """From which row or column to which one the second pass looks, out of `limit`."""
    reach = _REACH[interpolation] * max((end - begin) / length, 1.0)
    return max(math.floor(begin - reach), 0), min(math.ceil(end + reach), limit)
