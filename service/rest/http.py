"""Requests and responses as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic_core import to_json

Headers = list[tuple[bytes, bytes]]

JSON, BINARY = b"application/json", b"application/octet-stream"


@dataclass(slots=True)
class Request:
    """What a caller sent; names of headers are in lower case, the path is decoded."""

    method: str
    path: str
    headers: Mapping[bytes, bytes]
    body: bytes

    def take(self) -> bytes:
        """The body, which is let go of: it may be large, and the answer may take long."""
        body, self.body = self.body, b""
        return body


@dataclass(frozen=True, slots=True)
class Response:
    """What the caller gets; the length of the body is a header of it."""

    status: int = 200
    body: bytes = b""
    headers: Headers = field(default_factory=list)

    @property
    def lines(self) -> Headers:
        """All headers."""
        return [(b"content-length", b"%d" % len(self.body)), *self.headers]


class Departed(Exception):
    """The caller has left; nobody is there to be answered."""


class HttpError(Exception):
    """The request fails, for a reason that only HTTP has; the text is for its caller."""

    def __init__(self, status: int, text: str, headers: Headers | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers or []

    @property
    def response(self) -> Response:
        """What the caller gets."""
        return error_response(self.status, str(self), self.headers)


def json_response(value: object, status: int = 200, headers: Headers | None = None) -> Response:
    """A value as JSON."""
    return Response(status, to_json(value), [(b"content-type", JSON), *(headers or [])])


def error_response(status: int, text: str, headers: Headers | None = None) -> Response:
    """An error as Triton tells it."""
    return json_response({"error": text}, status, headers)


def too_large(most: int, headers: Headers | None = None) -> HttpError:
    """The body has more bytes than it may have."""
    return HttpError(413, f"the body has more than {most:,} bytes; send less at once", headers)
