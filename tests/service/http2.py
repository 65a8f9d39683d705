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


def post(path: str, body: bytes) -> bytes:
    """All that a client sends for one gRPC call, on a connection of its own."""
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
    block = b"".join(b"\0" + _text(name) + _text(value) for name, value in headers.items())
    return (
        PREFACE
        + frame(SETTINGS, 0, 0)
        + frame(HEADERS, END_HEADERS, 1, block)
        + frame(DATA, END_STREAM, 1, body)
    )


def connected(address: str, seconds: float) -> socket.socket:
    """A connection to HOST:PORT, on which nothing may take longer."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=seconds)


def wait_for_end(address: str, request: bytes, *, seconds: float) -> None:
    """Send `request` and return when its stream, or the connection, has come to an end.

    Raises: TimeoutError.
    """
    with (
        suppress(ConnectionError),
        connected(address, seconds) as connection,
        connection.makefile("rb") as replies,
    ):
        connection.sendall(request)
        while len(head := replies.read(FRAME.size)) == FRAME.size:
            high, low, kind, flags, stream = FRAME.unpack(head)
            replies.read((high << 16) + low)
            if kind == SETTINGS and not flags & ACK:
                connection.sendall(frame(SETTINGS, ACK, 0))
            ended = kind in (DATA, HEADERS) and flags & END_STREAM
            if stream == 1 and (ended or kind == RST_STREAM):
                return


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()
