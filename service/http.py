"""The operator's port: /metrics, /livez and /readyz."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import TCPServer, ThreadingMixIn
from time import monotonic
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from service.errors import UsageError

# A loop that has not turned for this long is stuck: callers time out and a restart is due.
STALL_SECONDS = 10.0


class Pulse:
    """Beaten by the event loop; whoever reads it learns whether the loop still turns."""

    def __init__(self) -> None:
        self._last = monotonic()

    def beat(self) -> None:
        """Note that the loop has turned."""
        self._last = monotonic()

    @property
    def alive(self) -> bool:
        """Whether the last beat is recent."""
        return monotonic() - self._last < STALL_SECONDS


class HttpServer:
    """Serves from threads of its own, so that a scrape answers even while the loop is busy.

    Raises: UsageError where the address cannot be had.
    """

    def __init__(
        self, address: str, registry: CollectorRegistry, pulse: Pulse, ready: Callable[[], bool]
    ) -> None:
        host, _, port = address.rpartition(":")
        try:
            family = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0][0]
            kind = type("_Server", (_Server,), {"address_family": family})
            self._server = kind((host.strip("[]"), int(port)), _Handler)
        except OSError as error:
            raise UsageError(
                f"http-address: cannot listen on {address}: {error.strerror}"
            ) from None
        self._server.set_app(_application(make_wsgi_app(registry), pulse, ready))
        self.port: int = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.1},
            name="http",
            daemon=True,
        )

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering and free the port."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()


def _application(metrics: Any, pulse: Pulse, ready: Callable[[], bool]) -> Any:
    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return metrics(environ, start_response)  # type: ignore[no-any-return]
        checks = {"/livez": lambda: pulse.alive, "/readyz": lambda: ready() and pulse.alive}
        check = checks.get(path)
        if check is None:
            status, body = "404 Not Found", b"try /metrics, /livez or /readyz\n"
        elif check():
            status, body = "200 OK", b"ok\n"
        else:
            status, body = "503 Service Unavailable", b"no\n"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [body]

    return application


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        # Not HTTPServer's own, which asks the name service who we are and may wait for it.
        TCPServer.server_bind(self)
        host, self.server_port = self.server_address[:2]
        self.server_name = str(host)
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a prober that hangs up is no event."""


class _Handler(WSGIRequestHandler):
    # A peer that sends nothing must not hold a thread for ever.
    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: probes and scrapes would fill the log."""
