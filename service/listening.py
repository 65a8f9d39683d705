"""Sockets for the addresses of settings."""

from __future__ import annotations

import socket

from service.errors import UsageError


def bound(setting: str, address: str, *, backlog: int | None = None) -> socket.socket:
    """A socket bound to HOST:PORT, which listens where it has a backlog.

    Where it does not, it keeps others from the port but not who reuses addresses. Raises:
    UsageError naming the setting.
    """
    host, _, port = address.rpartition(":")
    try:
        family, kind, *_, where = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM
        )[0]
        found = socket.socket(family, kind)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(where)
            if backlog is not None:
                found.listen(backlog)
        except OSError:
            found.close()
            raise
    except OSError as error:
        raise UsageError(f"{setting}: cannot listen on {address}: {error.strerror}") from None
    return found
