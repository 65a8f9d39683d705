"""What the clients raise; no exception of gRPC ever leaves them.

ConvoyError                  convoy.errors
└── ClientError
    ├── InvalidRequest       the request or an image is wrong; also a ValueError
    ├── NotFound             no such model or version; also a LookupError
    ├── Denied               the server, or a proxy before it, refuses this caller
    ├── Overloaded           the server's queue stayed full
    ├── Timeout              no answer within the timeout; also a TimeoutError
    ├── Unavailable          no Convoy server there, or it is starting or stopping;
    │                        also a ConnectionError
    └── ServerError          the server or its model failed
"""

from __future__ import annotations

from convoy.errors import ConvoyError


class ClientError(ConvoyError):
    """Base of the clients' errors.

    `detail` is the reason alone, `source` the image it is about ("photos/cat.jpg", "images[3]")
    and `index` that image's place in the caller's sequence; both are None where the error is not
    about one image. `str()` gives "source: detail".
    """

    def __init__(self, detail: str, *, source: str | None = None, index: int | None = None) -> None:
        super().__init__(f"{source}: {detail}" if source else detail)
        self.detail = detail
        self.source = source
        self.index = index


class InvalidRequest(ClientError, ValueError):
    """The request or an image is wrong; sending it again cannot help."""


class NotFound(ClientError, LookupError):
    """The server has no such model or version; the text lists what it has."""


class Denied(ClientError):
    """The server, or a proxy before it, does not let this caller in."""


class Overloaded(ClientError):
    """The server's queue was full, and stayed so for as long as the timeout let us retry."""


class Timeout(ClientError, TimeoutError):
    """There was no answer within the timeout."""


class Unavailable(ClientError, ConnectionError):
    """No Convoy server answers at that address, or it is starting or stopping."""


class ServerError(ClientError):
    """The server or its model failed; its log has the detail."""
