"""The service as an ASGI application, which pyvoy loads into the Envoy process.

The process that started Envoy (service/supervisor.py) holds the other end of a socket: it sends
the settings, is told when the service is ready, and closes it to have the service drain and end.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import sys

import structlog

from service import logs
from service.errors import StartupError
from service.fronts.asgi import AsgiFront
from service.fronts.envoy import ADMIN, CONTROL, HERE
from service.fronts.exchange import Message, Receive, Send
from service.fronts.statistics import EnvoyStatistics
from service.memory import return_freed_memory
from service.scheduling import take_turns_quickly
from service.server import Server, serve
from service.settings import Settings

READY = b"ready\n"

log = structlog.get_logger()


class Application:
    """Begins to serve with the life of the ASGI server; ends with the whole process."""

    def __init__(self) -> None:
        self._front: AsgiFront | None = None
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one call, or begin to serve."""
        if self._front is not None:
            await self._front(scope, receive, send)
            return
        try:
            await self._begin()
        except StartupError as error:
            _end(error)
        await send({"type": "lifespan.startup.complete"})

    async def _begin(self) -> None:
        _go_back(int(os.environ.pop(HERE)))
        control = socket.socket(fileno=int(os.environ.pop(CONTROL)))
        with control.makefile("rb") as lines:
            settings = Settings.model_validate_json(lines.readline())
        logs.configure(settings.log_level, settings.log_format)
        return_freed_memory()
        take_turns_quickly()
        front = self._front = AsgiFront(settings)
        server = Server(settings, lambda _: front)
        server.metrics.registry.register(EnvoyStatistics(os.environ.pop(ADMIN)))
        await server.listen()
        stop = asyncio.Event()
        self._task = asyncio.create_task(self._serve(server, stop, control))

    async def _serve(self, server: Server, stop: asyncio.Event, control: socket.socket) -> None:
        control.setblocking(False)
        loop = asyncio.get_running_loop()

        def on_end() -> None:
            loop.remove_reader(control)  # what has ended can be read for ever
            stop.set()

        loop.add_reader(control, on_end)
        signals = asyncio.create_task(_ignore_signals())

        async def tell() -> None:
            await signals
            control.send(READY)

        try:
            await serve(server, stop, tell)
        except StartupError as error:
            _end(error)
        except Exception:
            log.exception("crashed")
        finally:
            os._exit(1)  # also where nobody is left to read the log


def _go_back(folder: int) -> None:
    """Go to where the command was started, to which paths are relative; import nothing there."""
    sys.path[:] = [one for one in sys.path if one != "."]
    os.fchdir(folder)
    os.close(folder)


def _end(error: StartupError) -> None:
    try:
        sys.stderr.write(f"convoy-serve: {error}\n")
    finally:
        os._exit(error.exit_code)


async def _ignore_signals() -> None:
    """Leave signals to the process that watches this one: Envoy would end without a drain.

    Envoy takes them over soon after it has loaded this module, and Python may change that from its
    main thread only, which is Envoy's: hence the wait, and the way past Python.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_size_t
    taken = False
    while not taken:
        taken = libc.signal(signal.SIGTERM, signal.SIG_IGN) > signal.SIG_IGN
        await asyncio.sleep(0.01)
    libc.signal(signal.SIGINT, signal.SIG_IGN)


application = Application()
