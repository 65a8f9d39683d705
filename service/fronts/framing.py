"""gRPC over HTTP/2: length-prefixed messages, timeouts and statuses.

See PROTOCOL-HTTP2.md of gRPC.
"""

from __future__ import annotations

import math
from struct import Struct
from urllib.parse import quote

from service import packing
from service.carrier import CallFailed
from service.packing import ENCODINGS
from service.status import Code

Headers = list[tuple[bytes, bytes]]

PREFIX = Struct(">BI")  # compressed or not, bytes that follow

_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
# Printable ASCII except %, which is what a status message may hold as it is.
_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


class Frames:
    """Cuts a body that comes in chunks into messages of `most` bytes at most.

    Raises: CallFailed.
    """

    def __init__(self, encoding: bytes, most: int) -> None:
        if encoding not in ENCODINGS:
            raise CallFailed(Code.UNIMPLEMENTED, f"grpc-encoding: {encoding.decode('latin-1')}")
        self._packed = encoding != b"identity"
        self._most = most
        self._data = b""
        self._at = 0
        """Where the next message begins in the data; moving on spares a copy for each message."""
        self._chunks: list[bytes] = []
        """What has come since."""
        self.size = 0
        """Bytes of what is here and in no message that was taken."""
        self._needed = PREFIX.size

    def feed(self, chunk: bytes) -> None:
        """Take the next chunk of the body."""
        self._chunks.append(chunk)
        self.size += len(chunk)

    def take(self) -> bytes | None:
        """The next message, or None where it is not complete yet."""
        if self.size < self._needed:
            return None
        if self._chunks:
            rest = self._data[self._at :]
            parts = [rest, *self._chunks] if rest else self._chunks
            self._data, self._at, self._chunks = b"".join(parts), 0, []
        compressed, length = PREFIX.unpack_from(self._data, self._at)
        if length > self._most:
            raise _too_large(length, self._most)
        self._needed = PREFIX.size + length
        if self.size < self._needed:
            return None
        message = self._data[self._at + PREFIX.size : self._at + self._needed]
        self._at += self._needed
        self.size -= self._needed
        self._needed = PREFIX.size
        if not self.size:
            self._data, self._at = b"", 0
        return self._unpack(message) if compressed else message

    def end(self) -> None:
        """Take the end of the body. Raises: CallFailed where it is within a message."""
        if self.size:
            raise CallFailed(Code.INVALID_ARGUMENT, "the body ends within a message")

    def _unpack(self, message: bytes) -> bytes:
        if not self._packed:
            raise CallFailed(Code.INVALID_ARGUMENT, "a compressed message without grpc-encoding")
        try:
            return packing.unpack(message, self._most)
        except packing.BadData as error:
            text = f"the message cannot be unpacked: {error}"
            raise CallFailed(Code.INVALID_ARGUMENT, text) from None
        except packing.TooLarge:
            raise _too_large(self._most + 1, self._most) from None


def _too_large(size: int, most: int) -> CallFailed:
    text = f"the message has {size:,} bytes or more, must be {most:,} at most"
    return CallFailed(Code.RESOURCE_EXHAUSTED, text)


def frame(message: bytes) -> bytes:
    """A message with its prefix."""
    return PREFIX.pack(0, len(message)) + message


def timeout_seconds(value: bytes | None) -> float:
    """The header grpc-timeout in seconds; infinity without one. Raises: CallFailed."""
    if value is None:
        return math.inf
    digits, unit = value[:-1], _UNITS.get(value[-1:])
    if unit is None or not digits.isdigit() or len(digits) > 8:
        raise CallFailed(Code.INVALID_ARGUMENT, "grpc-timeout: must be digits and one of HMSmun")
    return int(digits) * unit


def status_headers(failure: CallFailed) -> Headers:
    """The status of a call that failed, with the trailers that go with it."""
    return [
        (b"grpc-status", b"%d" % failure.code),
        (b"grpc-message", quote(str(failure), safe=_PLAIN).encode()),
        *((name.encode(), value.encode()) for name, value in failure.trailers),
    ]
