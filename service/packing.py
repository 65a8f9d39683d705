"""Bodies and messages that come compressed: gzip or deflate, unpacked to a bounded size."""

from __future__ import annotations

import zlib

IDENTITY = b"identity"
ENCODINGS = (IDENTITY, b"deflate", b"gzip")

# zlib's: find out by the data whether it is gzip or deflate.
_EITHER_FORMAT = zlib.MAX_WBITS + 32
_FORMATS = {b"gzip": zlib.MAX_WBITS + 16, b"deflate": zlib.MAX_WBITS}
# Twice as fast as zlib's default, for a tenth more bytes.
_LEVEL = 1


class BadData(Exception):
    """It cannot be unpacked."""


class TooLarge(Exception):
    """It is larger than it may be."""


def unpack(data: bytes, most: int) -> bytes:
    """What was packed with gzip or deflate, at most `most` bytes. Raises: BadData, TooLarge."""
    try:
        machine = zlib.decompressobj(_EITHER_FORMAT)
        unpacked = machine.decompress(data, most + 1)
    except zlib.error as error:
        raise BadData(str(error)) from None
    if len(unpacked) > most:
        raise TooLarge
    if not machine.eof:
        raise BadData("it ends too early")
    if machine.unused_data:  # perhaps of another one, as gzip allows
        raise BadData("something follows its end; pack it all as one")
    return unpacked


def pack(data: bytes, encoding: bytes) -> bytes:
    """The data packed with `encoding`, gzip or deflate."""
    machine = zlib.compressobj(_LEVEL, wbits=_FORMATS[encoding])
    return machine.compress(data) + machine.flush()


def preferred(accepted: bytes) -> bytes:
    """What a header Accept-Encoding likes best of ENCODINGS; IDENTITY where it names none."""
    best, liking = IDENTITY, 0.0
    for one in accepted.replace(b" ", b"").split(b","):
        name, _, weight = one.partition(b";q=")
        if name in ENCODINGS and (likes := _weight(weight)) > liking:
            best, liking = name, likes
    return best


def _weight(text: bytes) -> float:
    try:
        return float(text) if text else 1.0
    except ValueError:
        return 0.0
