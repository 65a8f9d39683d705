"""The server of the HTTP port: uvicorn, in a thread and an event loop of its own."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import uvicorn
from prometheus_client import CollectorRegistry

from service.http.application import Application
from service.http.operators import Operators
from service.http.protocol import Protocol
from service.http.pulse import Pulse
from service.listening import bound
from service.rest.application import Rest
from service.settings import Settings

BACKLOG = 1024
# For answers that are being written when the port is closed.
CLOSE_SECONDS = 1


class HttpServer:
    """Answers beside the event loop of the calls, so that a scrape is answered while it is busy.

    Raises: UsageError where the address cannot be had.
    """

    def __init__(
        self,
        settings: Settings,
        registry: CollectorRegistry,
        pulse: Pulse,
        ready: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._operators = Operators(registry, pulse, ready)
        self._socket = bound("http-address", settings.http_address, backlog=BACKLOG)
        self.port: int = self._socket.getsockname()[1]
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self, rest: Rest, on_refusal: Callable[[], None]) -> None:
        """Begin to answer; requests of callers run on the event loop that this is called on.

        So does `on_refusal`, for each that is refused before all of it has come.
        """
        application = Application(self._operators, rest, on_refusal, self._settings)
        self._server = uvicorn.Server(_config(application, self._settings))
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="http", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop answering and free the port."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join()
        self._socket.close()


def _config(application: Application, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        http=Protocol,
        ws="none",
        interface="asgi3",
        lifespan="off",
        workers=1,  # not what the environment says
        proxy_headers=False,
        server_header=False,
        # Of what uvicorn has to say, a caller's bad HTTP is no event, and of errors in the
        # application it hears nothing.
        log_config=None,
        log_level="critical",
        access_log=False,
        backlog=BACKLOG,
        # It counts the connection that it looks at.
        limit_concurrency=settings.max_connections + 1,
        timeout_keep_alive=math.ceil(settings.idle_timeout),
        timeout_graceful_shutdown=CLOSE_SECONDS,
    )
