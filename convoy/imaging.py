"""From the bytes of an image file to the pixels a model is fed: the one place that does it.

Training, serving and clients that prepare pixels themselves all call `decode`, so that a model
sees in production what it saw in training. What depends on the network's weights (scale, mean,
layout) is not here: it lives inside the ONNX graph.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import Annotated, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from convoy.errors import ImageError
from convoy.image_files import check_pixels, guarded, identify, load, open_image
from convoy.jpeg import Header, check_scans, decode_plain, read_header
from convoy.resizing import Box, Interpolation, resize

_ORIENTATION_TAG = 0x0112
_MAX_TAGS = 1000  # cameras write about twenty
_XMP_ORIENTATION = re.compile(r'tiff:Orientation(?:="|>)([1-8])')
# What turns an image with this EXIF orientation upright.
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Encoded = bytes | bytearray | memoryview
MAX_SIDE = 8192
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]


class InputSpec(BaseModel):
    """The pixels a model is fed: uint8 [height, width, channels]."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    height: Side
    """Rows."""
    width: Side
    """Columns."""
    channels: Literal[1, 3]
    """1: grey (ITU-R 601 luma). 3: red, green, blue."""
    resize: Literal["stretch", "center-crop"] = "center-crop"
    """`stretch` ignores the aspect ratio; `center-crop` scales until the input is covered and
    cuts the middle out."""
    crop_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """With `center-crop`: the share of the covered area's sides that is kept (0.875 is usual for
    ImageNet's 224 of 256)."""
    interpolation: Interpolation = "bilinear"
    """Always antialiased when shrinking."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.height, self.width, self.channels

    @property
    def nbytes(self) -> int:
        """Bytes of one image."""
        return self.height * self.width * self.channels


@dataclass(frozen=True, slots=True)
class Limits:
    """What one encoded image may cost, checked before a pixel is decoded."""

    max_bytes: int = 16 * 2**20
    max_pixels: int = 50_000_000


DEFAULT_LIMITS = Limits()


def decode(
    data: Encoded,
    spec: InputSpec,
    limits: Limits = DEFAULT_LIMITS,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Decode an image file to the pixels that `spec` asks for, into `out` where it is given.

    EXIF orientation is applied, transparency is laid over white, only the first frame is read.
    Embedded colour profiles are not applied. A JPEG is decoded at reduced scale where at least
    twice the target remains. Safe to call from several threads.

    Returns: uint8 [height, width, channels], C-contiguous; so must `out` be.
    Raises: ImageError, with a text for whoever sent the image; `out` may hold anything then.
    """
    size = memoryview(data).nbytes
    if size > limits.max_bytes:
        raise ImageError(f"{size:,} bytes, more than the limit of {limits.max_bytes:,}")
    data = bytes(data)
    name = identify(data)
    if out is None:
        out = np.empty(spec.shape, np.uint8)
    with guarded(name):
        header = read_header(data) if name == "JPEG" else None
        if header is None or not _decode_plain(data, header, spec, limits, out):
            _decode_any(data, name, spec, limits, out)
    return out


def fit(image: Image.Image, spec: InputSpec) -> NDArray[np.uint8]:
    """Turn an open Pillow image into the pixels that `spec` asks for.

    An image that has the size of `spec` already, once it is upright, is not resampled or cropped.

    Returns: uint8 [height, width, channels], C-contiguous.
    Raises: ImageError where Pillow cannot read or convert the image.
    """
    out = np.empty(spec.shape, np.uint8)
    with guarded(image.format or image.mode):
        image.load()
        _fit(_upright(image, _orientation(image)), spec, out)
    return out


def _decode_plain(
    data: bytes, header: Header, spec: InputSpec, limits: Limits, out: NDArray[np.uint8]
) -> bool:
    """Decode a JPEG without Pillow; False where only Pillow can tell what it is."""
    size = header.width, header.height
    check_pixels(size, limits.max_pixels)
    if header.progressive:
        check_scans(data)
    orientation = _orientation_of(header.exif, header.xmp)
    scale = _scale(size, _draft_size(spec, orientation))
    grey = header.components == spec.channels == 1
    if (orientation, *size) == (1, spec.width, spec.height) and (grey or spec.channels == 3):
        return decode_plain(data, header, scale, "GRAY" if grey else "RGB", out) is not None
    pixels = decode_plain(data, header, scale, "GRAY" if grey else "RGBX")
    if pixels is None:
        return False
    # Pillow would put three bytes together to four one by one.
    mode, layout = ("L", "L") if grey else ("RGB", "RGBX")
    image = Image.frombytes(mode, header.scaled(scale), pixels.data, "raw", layout)
    del pixels  # before there is a third copy
    image = _upright(image, orientation)
    _fit(image, spec, out)
    return True


def _decode_any(
    data: bytes, name: str, spec: InputSpec, limits: Limits, out: NDArray[np.uint8]
) -> None:
    with open_image(data, name, limits.max_pixels) as image:
        if name == "JPEG":
            image.draft(None, _draft_size(spec, _orientation(image)))
        pixels = load(image)
        # Asked only now: a PNG may say it behind its pixels, and Pillow has turned a TIFF.
        _fit(_upright(pixels, _orientation(image)), spec, out)


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TRANSPOSE[orientation]) if orientation > 1 else image


def _fit(image: Image.Image, spec: InputSpec, out: NDArray[np.uint8]) -> None:
    image = _flatten(image, "L" if spec.channels == 1 else "RGB")
    if image.size != (spec.width, spec.height):
        box = _crop_box(image.size, spec)
        image = resize(image, (spec.width, spec.height), spec.interpolation, box)
    out[...] = np.asarray(image).reshape(spec.shape)


def _draft_size(spec: InputSpec, orientation: int) -> tuple[int, int]:
    """The least (width, height), as stored in the file, that a reduced JPEG must have."""
    gap = 2.0 / spec.crop_fraction if spec.resize == "center-crop" else 2.0
    size = math.ceil(spec.width * gap), math.ceil(spec.height * gap)
    return size[::-1] if orientation >= 5 else size


def _scale(size: tuple[int, int], least: tuple[int, int]) -> int:
    """libjpeg decodes at 1/2, 1/4 or 1/8 for less; the same choice as Pillow's `draft`."""
    ratio = min(size[0] // least[0], size[1] // least[1])
    return next((scale for scale in (8, 4, 2) if ratio >= scale), 1)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8, of an image that Pillow has opened.

    Not `Image.getexif`, which reads all of a block that may be broken or hostile, and warns.
    """
    exif = image.info.get("exif") or _exif_in_text(image)
    xmp = image.info.get("xmp") or b""
    return _orientation_of(exif.removeprefix(b"Exif\0\0"), xmp)


def _orientation_of(exif: bytes, xmp: bytes | str) -> int:
    """Orientation from EXIF, else from XMP, else 1."""
    found = _tiff_orientation(exif) if exif else 0
    if 1 <= found <= 8:
        return found
    text = xmp.decode("latin-1") if isinstance(xmp, bytes) else str(xmp)
    match = _XMP_ORIENTATION.search(text)
    return int(match[1]) if match else 1


def _exif_in_text(image: Image.Image) -> bytes:
    """EXIF as ImageMagick used to write it to PNG: a text of three lines, then hexadecimal."""
    text = image.info.get("Raw profile type exif", "")
    try:
        return bytes.fromhex("".join(text.split("\n")[3:]))
    except ValueError:
        return b""


def _tiff_orientation(block: bytes) -> int:
    """The orientation in the first directory of an EXIF block; 0 where there is none."""
    order = "<" if block[:2] == b"II" else ">"
    try:
        (start,) = struct.unpack_from(order + "L", block, 4)
        (count,) = struct.unpack_from(order + "H", block, start)
        for at in range(start + 2, start + 2 + 12 * min(count, _MAX_TAGS), 12):
            tag, kind = struct.unpack_from(order + "HH", block, at)
            if tag == _ORIENTATION_TAG:
                value = struct.unpack_from(order + ("L" if kind == 4 else "H"), block, at + 8)
                return int(value[0])
    except struct.error:  # a broken EXIF block says nothing about the pixels
        pass
    return 0


def _flatten(image: Image.Image, mode: str) -> Image.Image:
    """Any of Pillow's modes to "L" or "RGB", as a viewer on white paper shows it."""
    if image.mode.startswith("I;16"):
        image = _high_bytes(image)
    elif image.mode in ("I", "F"):
        image = _stretched(image)
    elif image.mode == "LAB":
        image = image.convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGB", image.size, "white")
        paper.paste(image, mask=image)
        image = paper
    return image if image.mode == mode else image.convert(mode)


def _high_bytes(image: Image.Image) -> Image.Image:
    """16-bit grey to 8 bits; Pillow's own conversion clips at 255 instead of scaling."""
    pixels = np.asarray(image)
    grey = Image.fromarray((pixels >> 8).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(pixels == transparent, 0, 255).astype(np.uint8)))
    return grey


def _stretched(image: Image.Image) -> Image.Image:
    """32-bit grey to 8 bits. Such files do not say what is white: their own extremes are taken."""
    darkest, brightest = cast(tuple[float, float], image.getextrema())
    scale = 255.0 / (brightest - darkest) if brightest > darkest else 0.0
    return image.point(lambda value: value * scale - darkest * scale).convert("L")


def _crop_box(size: tuple[int, int], spec: InputSpec) -> Box:
    """The part of the image, in its own pixels, that becomes the model's input."""
    width, height = size
    if spec.resize == "stretch":
        return 0.0, 0.0, float(width), float(height)
    scale = min(width / spec.width, height / spec.height) * spec.crop_fraction
    # Rounding may give a hair more than there is, which Pillow refuses.
    left = max((width - spec.width * scale) / 2, 0.0)
    top = max((height - spec.height * scale) / 2, 0.0)
    return left, top, width - left, height - top
