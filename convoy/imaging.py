"""From the bytes of an image file to the pixels a model is fed: the one place that does it.

Training, serving and clients that prepare pixels themselves all call `decode`, so that a model
sees in production what it saw in training. What depends on the network's weights (scale, mean,
layout) is not here: it lives inside the ONNX graph.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps
from pydantic import BaseModel, ConfigDict, Field

from convoy.errors import ImageError

# What `Image.open` may try; MPO is a JPEG with more pictures behind it. Other decoders of Pillow
# (EPS calls Ghostscript, for one) must not see bytes from strangers.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_KNOWN = "JPEG, PNG, WebP, GIF, BMP or TIFF"

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_ORIENTATION_TAG = 0x0112
_TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations that swap width and height

Encoded = bytes | bytearray | memoryview
Side = Annotated[int, Field(ge=1, le=8192)]


class InputSpec(BaseModel):
    """The pixels a model is fed: uint8 [height, width, channels]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: Side
    width: Side
    channels: Literal[1, 3]
    """1: grey (ITU-R 601 luma). 3: red, green, blue."""
    resize: Literal["stretch", "center-crop"] = "center-crop"
    """`stretch` ignores the aspect ratio; `center-crop` scales until the input is covered and
    cuts the middle out."""
    crop_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """With `center-crop`: the share of the covered area's sides that is kept (0.875 is usual for
    ImageNet's 224 of 256)."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
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


def decode(data: Encoded, spec: InputSpec, limits: Limits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """Decode an image file to the pixels that `spec` asks for.

    EXIF orientation is applied, transparency is laid over white, only the first frame is read.
    A JPEG is decoded at reduced scale where at least twice the target remains.

    Returns: uint8 [height, width, channels], C-contiguous.
    Raises: ImageError, with a text for whoever sent the image.
    """
    with _open(data, limits) as image:
        try:
            _draft(image, spec)
            image.load()
            return fit(image, spec)
        except ImageError:
            raise
        except MemoryError:
            raise ImageError(f"too large to decode ({image.width} x {image.height})") from None
        except Exception as error:
            # Pillow's plugins raise nearly anything on broken files: OSError, ValueError,
            # SyntaxError, struct.error, IndexError, zlib.error.
            raise ImageError(f"broken {image.format} image: {error}") from None


def fit(image: Image.Image, spec: InputSpec) -> NDArray[np.uint8]:
    """Turn an open Pillow image into the pixels that `spec` asks for.

    Returns: uint8 [height, width, channels], C-contiguous.
    Raises: ImageError where the pixel format has no meaning as a picture.
    """
    image = _flatten(_upright(image), grey=spec.channels == 1)
    if image.size != (spec.width, spec.height):
        image = image.resize(
            (spec.width, spec.height),
            _RESAMPLING[spec.interpolation],
            box=_crop_box(image.size, spec),
            # Shrink by a whole factor first while twice the target remains, as `draft` does for
            # JPEG: a 12-megapixel PNG costs a third, the pixels differ by less than a level.
            reducing_gap=2.0,
        )
    return np.asarray(image, dtype=np.uint8).reshape(spec.shape)


def _open(data: Encoded, limits: Limits) -> Image.Image:
    size = memoryview(data).nbytes
    if size == 0:
        raise ImageError("empty: 0 bytes")
    if size > limits.max_bytes:
        raise ImageError(f"{size:,} bytes, more than the limit of {limits.max_bytes:,}")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"more pixels than the limit of {limits.max_pixels:,}") from None
    except Image.UnidentifiedImageError:
        raise ImageError(f"not a {_KNOWN} image, or its header is broken") from None
    except Exception as error:
        raise ImageError(f"broken image header: {error}") from None
    if image.width * image.height > limits.max_pixels:
        raise ImageError(
            f"{image.width} x {image.height} pixels, more than the limit of {limits.max_pixels:,}"
        )
    return image


def _draft(image: Image.Image, spec: InputSpec) -> None:
    """Ask libjpeg for 1/2, 1/4 or 1/8 of the size where that leaves twice the target."""
    if image.format not in ("JPEG", "MPO"):
        return
    width, height = spec.width, spec.height
    if width != height and _orientation(image) in _TRANSPOSED:
        width, height = height, width
    gap = 2.0 / spec.crop_fraction
    image.draft(None, (int(width * gap), int(height * gap)))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1


def _upright(image: Image.Image) -> Image.Image:
    if _orientation(image) == 1:
        return image
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # as above: the pixels are fine
        return image


def _flatten(image: Image.Image, *, grey: bool) -> Image.Image:
    """Any of Pillow's modes to "L" or "RGB", as a viewer on white paper shows it."""
    mode = "L" if grey else "RGB"
    if image.mode == mode and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255 instead of scaling.
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ImageError(f"32-bit pixels (mode {image.mode}) have no defined brightness range")
    elif image.mode == "LAB":
        image = ImageCms.applyTransform(image, _lab_to_srgb()) or image
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGB", image.size, "white")
        paper.paste(image, mask=image.getchannel("A"))
        image = paper
    return image.convert(mode)


@cache
def _lab_to_srgb() -> ImageCms.ImageCmsTransform:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, srgb, "LAB", "RGB")


def _crop_box(size: tuple[int, int], spec: InputSpec) -> tuple[float, float, float, float]:
    """The part of the image, in its own pixels, that becomes the model's input."""
    width, height = size
    if spec.resize == "stretch":
        return 0.0, 0.0, float(width), float(height)
    scale = min(width / spec.width, height / spec.height) * spec.crop_fraction
    crop_width, crop_height = spec.width * scale, spec.height * scale
    left, top = (width - crop_width) / 2, (height - crop_height) / 2
    return left, top, left + crop_width, top + crop_height
