"""What callers give as an image, turned into what is sent.

Pillow and NumPy are imported only where an image of theirs is at hand: neither is needed to send
files.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

from convoy.client.errors import InvalidRequest
from convoy.v1 import image_classifier_pb2 as pb

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    ImageInput: TypeAlias = (
        str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | NDArray[np.uint8]
    )
else:
    ImageInput = Any

Shape: TypeAlias = tuple[int, int, int]
"""(height, width, channels) of a model's input."""

# A server takes messages of up to 64 MiB; what else a message holds fits the difference many times.
MAX_IMAGE_BYTES = 60 * 2**20

# Lossless in the modes PNG has; Pillow's fastest setting, since the wire is rarely the bottleneck.
_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
_PNG_OPTIONS = {"format": "PNG", "compress_level": 1}

_NO_IMAGE = "{} is no image: give a path, bytes, a PIL image or a NumPy array"


def is_one_image(value: object) -> bool:
    """Whether `value` is a single image, not a sequence of them."""
    # os.PathLike last: Python has to ask for it, where it knows the others.
    one = isinstance(value, bytes | bytearray | memoryview | str)
    return one or is_array(value) or _is_picture(value) or isinstance(value, os.PathLike)


def is_array(value: object) -> TypeGuard[NDArray[Any]]:
    """Whether `value` is a NumPy array; only such an input depends on the model's input size."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def is_ready(value: object, shape: Shape | None) -> bool:
    """Whether `value` can be sent as it is, without a disk or an encoder."""
    if is_array(value):
        return value.shape == shape
    return isinstance(value, bytes | bytearray | memoryview)


def iterate(images: Any) -> Iterator[Any]:
    """Go through a sequence of images. Raises: InvalidRequest where it is none."""
    if hasattr(images, "read"):  # an open file, a sequence of lines
        raise InvalidRequest(_NO_IMAGE.format(type(images).__name__))
    try:
        return iter(images)
    except TypeError:
        raise InvalidRequest(_NO_IMAGE.format(type(images).__name__)) from None


def source_of(value: object, index: int) -> str:
    """What messages call the image: its path, or its place in the caller's sequence."""
    return os.fspath(value) if isinstance(value, str | os.PathLike) else f"images[{index}]"


def read_image(value: object, shape: Shape | None) -> pb.Image:
    """Make the message for one image; `shape` is the model's input, where it is known.

    Raises: InvalidRequest where it cannot be read, is not an image or is too large to send.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return pb.Image(encoded=_sendable(bytes(value)))
    if is_array(value):
        return _read_array(value, shape)
    if isinstance(value, str | os.PathLike):
        return pb.Image(encoded=_sendable(_read_file(value)))
    if _is_picture(value):
        return pb.Image(encoded=_sendable(_encode_picture(value)))
    raise InvalidRequest(_NO_IMAGE.format(type(value).__name__))


def _sendable(data: bytes) -> bytes:
    """The same. Raises: InvalidRequest where it is too large."""
    if len(data) > MAX_IMAGE_BYTES:
        raise InvalidRequest(f"more than {MAX_IMAGE_BYTES:,} bytes, the most that can be sent")
    return data


def _is_picture(value: object) -> bool:
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(value, pillow.Image)


def _read_file(path: str | os.PathLike[str]) -> bytes:
    try:
        with open(path, "rb") as file:
            # One byte more than may be sent is enough to refuse a file of any size.
            return file.read(MAX_IMAGE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InvalidRequest(getattr(error, "strerror", None) or str(error)) from None


def _read_array(array: NDArray[Any], shape: Shape | None) -> pb.Image:
    if array.dtype != "uint8":
        raise InvalidRequest(f"array of {array.dtype}; pixels are uint8, 0 to 255")
    planes = array[:, :, None] if array.ndim == 2 else array
    if planes.ndim != 3 or planes.shape[2] not in (1, 3) or 0 in planes.shape:
        hint = "; for a batch give list(array)" if array.ndim == 4 else ""
        raise InvalidRequest(f"array of shape {array.shape}; expected [H, W, 3] or [H, W]{hint}")
    if planes.shape == shape:
        height, width, channels = planes.shape
        data = _sendable(planes.tobytes())
        return pb.Image(pixels=pb.Pixels(height=height, width=width, channels=channels, data=data))
    from PIL import Image

    picture = Image.fromarray(planes.squeeze(2) if planes.shape[2] == 1 else planes)
    return pb.Image(encoded=_sendable(_encode_picture(picture)))


def _encode_picture(picture: Any) -> bytes:
    """Encode losslessly, turned upright as the same picture from a file would be."""
    from PIL import ImageOps

    buffer = io.BytesIO()
    try:
        picture.load()
        picture = ImageOps.exif_transpose(picture)
        options = _PNG_OPTIONS if picture.mode in _PNG_MODES else {"format": "TIFF"}
        picture.save(buffer, **options)
    except Exception as error:
        # Pillow raises nearly anything for a lazily opened file that turns out to be broken.
        raise InvalidRequest(f"the PIL image cannot be encoded: {error}") from None
    return buffer.getvalue()
