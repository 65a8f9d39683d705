"""What operators ask: /metrics, /livez and /readyz."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from service import packing
from service.http.pulse import Pulse
from service.rest.http import HttpError, Response

TEXT = b"text/plain; charset=utf-8"
METHODS = ("GET", "HEAD")


class Operators:
    """Answers what needs nothing of the event loop of the calls."""

    def __init__(
        self, registry: CollectorRegistry, pulse: Pulse, ready: Callable[[], bool]
    ) -> None:
        self._registry = registry
        self._checks = {
            "/livez": lambda: pulse.alive,
            "/readyz": lambda: ready() and pulse.alive,
        }

    async def answer(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> Response:
        """Answer one request. Raises: HttpError."""
        check = self._checks.get(path)
        if check is None and path != "/metrics":
            raise HttpError(404, "try /metrics, /livez, /readyz or /v2")
        if method not in METHODS:
            raise HttpError(405, "must be GET", [(b"allow", ", ".join(METHODS).encode())])
        if check is None:
            # A thread: some of the figures come from another server, which may be slow.
            return await asyncio.to_thread(self._metrics, headers)
        status, body = (200, b"ok\n") if check() else (503, b"no\n")
        return Response(status, body, [(b"content-type", TEXT)])

    def _metrics(self, headers: Mapping[bytes, bytes]) -> Response:
        encode, content_type = choose_encoder(headers.get(b"accept", b"").decode("latin-1"))
        body, lines = encode(self._registry), [(b"content-type", content_type.encode())]
        encoding = packing.preferred(headers.get(b"accept-encoding", b""))
        if encoding != packing.IDENTITY:
            body = packing.pack(body, encoding)
            lines.append((b"content-encoding", encoding))
        return Response(200, body, lines)
