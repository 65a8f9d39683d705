"""Just enough of HTTP/2 to send what no gRPC library would (RFC 9113 and 7541)."""

from __future__ import annotations

import socket
from contextlib import suppress
from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME = Struct(">BHBBI")  # length in three bytes, type, flags, stream
DATA, HEADERS, RST_STREAM, SETTINGS = 0, 1, 3, 4
ACK = END_STREAM = 1
END_HEADERS = 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame on a stream."""
    size = len(payload)
    return FRAME.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def hello() -> bytes:
    """What a client sends first."""
    return PREFACE + frame(SETTINGS, 0, 0)


def post(path: str, body: bytes, *, stream: int = 1) -> bytes:
    """All that a client sends for one gRPC call."""
    headers = _headers(path)
    return frame(HEADERS, END_HEADERS, stream, headers) + frame(DATA, END_STREAM, stream, body)


def given_up(path: str, *, stream: int) -> bytes:
    """A gRPC call of which the client wants to know nothing any more."""
    cancel = (8).to_bytes(4)
    return frame(HEADERS, END_HEADERS, stream, _headers(path)) + frame(
        RST_STREAM, 0, stream, cancel
    )


def _headers(path: str) -> bytes:
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":authority": "localhost",
        ":path": path,
        "content-type": "application/grpc",
        "te": "trailers",
        "grpc-timeout": "100m",  # gRPC's library waits that long for the rest of a message
    }
    # Each literal, without Huffman's code and without a place in the table.
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in headers.items())


def connected(address: str, seconds: float) -> socket.socket:
    """A connection to HOST:PORT, on which nothing may take longer."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=seconds)


def wait_for_end(address: str, request: bytes, *, seconds: float, last: int = 1) -> bool:
    """Send `request` on a connection of its own, and wait for the end of its `last` stream.

    Returns: False where the connection has ended before. Raises: TimeoutError.
    """
    with (
        suppress(ConnectionError),
        connected(address, seconds) as connection,
        connection.makefile("rb") as replies,
    ):
        connection.sendall(hello() + request)
        while len(head := replies.read(FRAME.size)) == FRAME.size:
            high, low, kind, flags, stream = FRAME.unpack(head)
            replies.read((high << 16) + low)
            if kind == SETTINGS and not flags & ACK:
                connection.sendall(frame(SETTINGS, ACK, 0))
            ended = kind in (DATA, HEADERS) and flags & END_STREAM
            if stream == last and (ended or kind == RST_STREAM):
                return True
    return False


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode("latin-1")
