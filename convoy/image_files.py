"""Image files from strangers, opened with Pillow: what is accepted, what it may cost, how it fails.

`convoy.imaging` is what to use; this is the part of it that knows file formats.
"""

from __future__ import annotations

import io
import re
import struct
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from convoy.errors import ImageError
from convoy.jpeg import check_scans
from convoy.tiff import first_page


class _Jpeg(JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Not wanted: it reads and warns about all of an EXIF block to find a resolution."""


# The plugins themselves, not `Image.open`: it adds limits of its own that are global to the
# process, and would also try decoders that must not see bytes from strangers (EPS calls
# Ghostscript). An MPO file is a JPEG with more pictures behind it.
_PLUGINS: dict[str, type[ImageFile]] = {
    "JPEG": _Jpeg,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
}
SUPPORTED = "JPEG, PNG, WebP, GIF, BMP or TIFF"

_SIGNATURES = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WebP": rb"RIFF....WEBP",
    "GIF": rb"GIF8[79]a",
    "TIFF": rb"II\*\0|II\0\*|II\+\0|MM\0\*|MM\*\0|MM\0\+",
    "BMP": rb"BM",
    "HEIC": rb"....ftyp(hei|hev|mif1|msf1)",
    "AVIF": rb"....ftypavi",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "ICO": rb"\0\0[\x01\x02]\0",
    "Photoshop": rb"8BPS",
    "PDF": rb"%PDF",
    "PostScript": rb"%!PS|\xc5\xd0\xd3\xc6",
    "SVG or XML": rb"(\xef\xbb\xbf)?\s*<(\?xml|svg)",
    "HTML": rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|body)",
    "ZIP": rb"PK\x03\x04",
}
_FORMATS = {
    name: re.compile(pattern, re.DOTALL | re.IGNORECASE if "ML" in name else re.DOTALL)
    for name, pattern in _SIGNATURES.items()
}

# Pillow unpacks run-length BMPs in Python, some 10 million pixels a second.
_MAX_RLE_PIXELS = 4 * 2**20
# Pillow unpacks each compressed text of a PNG, up to a megabyte each.
_MAX_TEXTS = 32


def identify(data: bytes) -> str:
    """Name of the format, by the first bytes. Raises: ImageError where it is not supported."""
    if not data:
        raise ImageError("empty: 0 bytes")
    head = data[:64]
    name = next((name for name, pattern in _FORMATS.items() if pattern.match(head)), None)
    if name is None:
        raise ImageError(f"not an image in a supported format: send {SUPPORTED}")
    if name not in _PLUGINS:
        raise ImageError(f"{name} is not supported: send {SUPPORTED}")
    return name


def open_image(data: bytes, name: str, max_pixels: int) -> ImageFile:
    """Read the header, and refuse what would cost too much; no pixel is decoded yet.

    Raises: ImageError, and whatever Pillow raises; see `guarded`.
    """
    if name == "WebP":
        check_pixels(_webp_size(data), max_pixels)  # opening one allocates its canvas
    elif name == "TIFF":
        data = first_page(data, max_pixels)
    elif name == "PNG" and data.count(b"zTXt") + data.count(b"iTXt") > _MAX_TEXTS:
        raise ImageError(f"more than {_MAX_TEXTS} compressed texts in a PNG image")
    image = _PLUGINS[name](io.BytesIO(data))
    check_pixels(image.size, max_pixels)
    if name == "JPEG" and "progressive" in image.info:
        check_scans(data)
    elif name == "BMP" and image.info["compression"] in (1, 2):
        check_pixels(image.size, min(_MAX_RLE_PIXELS, max_pixels))
    elif name == "PNG":
        _scale_transparent_colour(image, bits=data[24])
    return image


def load(image: ImageFile) -> Image.Image:
    """Decode the pixels of the first frame, on the whole of its canvas.

    Raises: whatever Pillow raises; see `guarded`.
    """
    place = image.tile[0][1] if image.format == "GIF" and image.tile else None
    image.load()
    if place in (None, (0, 0, *image.size)) or "transparency" in image.info:
        return image
    # Viewers leave what the first frame of a GIF does not cover transparent, Pillow fills it with
    # the first colour of the palette.
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(image.crop(place).convert("RGB"), place)
    return canvas


def check_pixels(size: tuple[int, int], limit: int) -> None:
    """Refuse what is larger than `limit` pixels. Raises: ImageError."""
    width, height = size
    if width * height > limit:
        raise ImageError(f"{width} x {height} pixels, more than the limit of {limit:,}")


def _webp_size(data: bytes) -> tuple[int, int]:
    """(width, height) of the canvas, by the first chunk of a WebP file."""
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _scale_transparent_colour(image: ImageFile, *, bits: int) -> None:
    """Bring the transparent colour of a PNG to 8 bits; Pillow does that with the pixels only."""
    colour = image.info.get("transparency")
    if image.mode == "L" and isinstance(colour, int) and bits in (2, 4):
        image.info["transparency"] = colour * 255 // (2**bits - 1)
    elif image.mode == "RGB" and isinstance(colour, tuple) and bits == 16:
        image.info["transparency"] = tuple(part >> 8 for part in colour)


# Pillow writes these texts for people; others, and those that quote bytes, are Python's own.
_SPOKEN = (OSError, SyntaxError, ValueError)
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9 ,.:()%=>-]{3,150}")


@contextmanager
def guarded(name: str) -> Iterator[None]:
    """Turn whatever Pillow raises into an ImageError, and keep its warnings to ourselves."""
    with _silenced():
        try:
            yield
        except ImageError as error:
            _forget(error)
            raise
        except Exception as error:
            # Pillow's plugins raise nearly anything on broken files: OSError, ValueError,
            # SyntaxError, EOFError, struct.error, IndexError, zlib.error.
            _forget(error)
            raise ImageError(f"unreadable {name} image: {_reason(error)}") from None


def _forget(error: Exception) -> None:
    """Let go of the images that the frames of an error hold: it may lie in a future for long."""
    traceback.clear_frames(error.__traceback__)


def _reason(error: Exception) -> str:
    """What Pillow said where it said it for people, else nothing of Python's inside."""
    text = str(error)
    if isinstance(error, MemoryError):
        return "not enough memory for it"
    if isinstance(error, Image.DecompressionBombError):
        return "a part of it is too large"
    if isinstance(error, SyntaxError) and text == "not identified by this driver":
        return "its header is damaged"
    foreign = isinstance(error, SyntaxError) and error.__cause__ is not None
    if foreign or isinstance(error, UnicodeError) or not isinstance(error, _SPOKEN):
        return "its data is damaged"
    if "0x" in text or "decoder" in text or not _PLAIN.fullmatch(text):
        return "its data is damaged"
    return text


class _Decoding(threading.local):
    """Stands where a warnings filter has its pattern; matches in threads that decode."""

    depth = 0

    def match(self, _module: str) -> bool:
        return self.depth > 0


_decoding = _Decoding()
_IGNORE = ("ignore", None, Warning, _decoding, 0)


@contextmanager
def _silenced() -> Iterator[None]:
    """No warning of Pillow's is shown, or becomes an error, whatever the filters are.

    `warnings.catch_warnings` is not safe among threads: it swaps the filters of all of them. This
    filter stays in the list, and does nothing for threads that are not decoding.
    """
    filters = cast(list[Any], warnings.filters)
    if not filters or filters[0] is not _IGNORE:  # others have put theirs before it
        filters.insert(0, _IGNORE)
    _decoding.depth += 1
    try:
        yield
    finally:
        _decoding.depth -= 1
