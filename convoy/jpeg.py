"""JPEG files in two steps: what their header says, then pixels straight from libjpeg-turbo.

`convoy.imaging` is what to use. simplejpeg calls libjpeg-turbo without the streams, the blocks of
64 KB and the conversions between memory layouts that Pillow puts around the same library, so the
pixels are the same, bit by bit. It takes plain files only; all others, and all files where it is
not installed (it comes with the extras `serve` and `train`), are left to Pillow.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from convoy.errors import ImageError

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

_SEGMENT, _FRAME = struct.Struct(">BBH"), struct.Struct(">BHHB")
_BASELINE, _EXTENDED, _PROGRESSIVE, _START_OF_SCAN, _END_OF_IMAGE = 0xC0, 0xC1, 0xC2, 0xDA, 0xD9
_APP1 = 0xE1
_FRAMES = {_BASELINE, _EXTENDED, _PROGRESSIVE}
# Huffman and quantisation tables, restart interval, comments, all APPn.
_PLAIN = _FRAMES | {_START_OF_SCAN, 0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)}
_MAX_SEGMENTS = 1000  # a colour profile alone may take 255
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"

# libjpeg goes over the whole picture once for each scan of a progressive JPEG, however short the
# scan is; real files have about ten.
_MAX_SCANS = 100
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


# Of one pixel. X: a byte without a meaning, as Pillow's own images have one.
Layout = Literal["GRAY", "RGB", "RGBX"]
_BYTES: dict[Layout, int] = {"GRAY": 1, "RGB": 3, "RGBX": 4}


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the pixels."""

    width: int
    height: int
    components: int
    """1: grey. 3: colour."""
    progressive: bool
    exif: bytes
    """A TIFF block, or nothing."""
    xmp: bytes

    def scaled(self, scale: int) -> tuple[int, int]:
        """(width, height) when decoded at 1 / `scale`."""
        return -(-self.width // scale), -(-self.height // scale)


def read_header(data: bytes) -> Header | None:
    """The header of a plain JPEG file, which begins with its signature.

    Returns: None where anything is unusual: more or less than 8 bits, four components, arithmetic
    coding, bytes between the segments; or where simplejpeg is not installed.
    """
    if simplejpeg is None:
        return None
    frame: tuple[int, int, int, bool] | None = None
    exif, xmp, at = b"", b"", 2
    for _ in range(_MAX_SEGMENTS):
        if at + _SEGMENT.size > len(data):
            return None
        mark, marker, length = _SEGMENT.unpack_from(data, at)
        body, at = at + _SEGMENT.size, at + 2 + length
        if mark != 0xFF or marker not in _PLAIN or at > len(data):
            return None
        if marker == _START_OF_SCAN:
            return Header(*frame, exif, xmp) if frame else None
        if marker in _FRAMES:
            if frame or length < 8:
                return None
            bits, height, width, components = _FRAME.unpack_from(data, body)
            if bits != 8 or components not in (1, 3) or not width * height:
                return None
            frame = width, height, components, marker == _PROGRESSIVE
        elif marker == _APP1 and data.startswith(_EXIF, body):
            exif += data[body + len(_EXIF) : at]
        elif marker == _APP1 and data.startswith(_XMP, body):
            xmp = data[body + len(_XMP) : at]
    return None


def check_scans(data: bytes) -> None:
    """Refuse a progressive JPEG that is made to cost much. Raises: ImageError."""
    scans, at = 0, 2
    while (found := _MARKER.search(data, at)) and data[found.end() - 1] != _END_OF_IMAGE:
        scans += data[found.end() - 1] == _START_OF_SCAN
        if scans > _MAX_SCANS:
            raise ImageError(f"more than {_MAX_SCANS} scans in a progressive JPEG image")
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")


def decode_plain(
    data: bytes, header: Header, scale: int, layout: Layout, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8] | None:
    """Decode at 1 / `scale` (1, 2, 4 or 8) in a layout, into `out` if given.

    Grey is for grey files only. Releases the interpreter's lock.

    Returns: uint8 [ceil(height / scale), ceil(width / scale), 1, 3 or 4]; None where libjpeg-turbo
    refuses or only doubts the file: then Pillow has to say what is wrong with it, if anything.
    """
    width, height = header.scaled(scale)
    shape = height, width, _BYTES[layout]
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data,
            layout,
            min_height=height if scale > 1 else 0,
            min_width=width if scale > 1 else 0,
            buffer=np.empty(shape, np.uint8) if out is None else out,
        )
    except ValueError:
        return None
    return pixels if pixels.shape == shape else None
