"""Starts the Envoy process that serves, passes signals on, and starts another after a crash."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from asyncio.subprocess import Process
from contextlib import suppress
from time import monotonic

import structlog

from service.backoff import Backoff
from service.errors import UnfitError, UsageError
from service.fronts.envoy import CONTROL, HERE, admin_folder, admin_path, command, environment
from service.listening import bound
from service.settings import WITH_SECRETS, Settings

# Beyond the drain timeout, for a process that does not even end.
PATIENCE_SECONDS = 5.0
# For what a process that has ended said just before.
LAST_WORD_SECONDS = 1.0
ANY_HOST = {"0.0.0.0", "::"}
# Exit codes of a service that does not start, which has said why.
SAID = {UsageError.exit_code, UnfitError.exit_code}

log = structlog.get_logger()


class Supervisor:
    """Watches over one Envoy process at a time.

    Raises: UsageError where Envoy cannot run here or an address cannot be had.
    """

    def __init__(self, settings: Settings) -> None:
        self._folder = admin_folder()
        admin = admin_path(self._folder)
        self._environment = environment(admin)
        # Held for as long as this lives, so that another process finds the same ports again.
        self._sockets = _reserved(settings)
        grpc, http = map(_address, self._sockets)
        self._settings = settings.model_copy(update={"grpc_address": grpc, "http_address": http})
        self._command = command(self._settings, admin)
        self._process: Process | None = None
        self._here = _working_directory(settings)
        self._backoff = Backoff()
        self._stop = asyncio.Event()

    def on_signal(self) -> None:
        """Stop; the second time, at once."""
        if self._stop.is_set():
            log.warning("killed", reason="second signal")
            if self._process is not None:
                self._process.kill()
            self._folder.cleanup()
            os._exit(1)
        self._stop.set()

    async def run(self) -> int:
        """Serve until told to stop; returns the exit code."""
        has_served = False
        while True:
            code, served = await self._life()
            has_served = has_served or served is not None
            if self._stop.is_set():
                return code if code >= 0 else 1
            if code in SAID:
                return code
            restart = has_served and self._settings.on_crash == "restart"
            pause = self._backoff.after(served or 0.0) if restart else None
            log.error("crashed", exit_code=code, restart_in_seconds=pause)
            if pause is None:
                self._say_why_not()
                return code if code > 0 else 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause)
                return 0

    def _say_why_not(self) -> None:
        if self._backoff.crashes > 1:
            log.error(
                "gave_up",
                crashes=self._backoff.crashes,
                reason="each process crashed soon after its start; the log above has their last "
                "words, or see the kernel's log for a lack of memory",
            )

    async def _life(self) -> tuple[int, float | None]:
        """One process from start to end: its exit code, and for how many seconds it served.

        They count from its word that it is ready: loading may take longer than any crash loop.
        """
        _bury_orphans()
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                fds = {CONTROL: theirs.fileno(), HERE: self._here}
                self._process = process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=asyncio.subprocess.DEVNULL,
                    env={**self._environment, **{name: str(fd) for name, fd in fds.items()}},
                    pass_fds=tuple(fds.values()),
                    # pyvoy looks for modules in the working directory first: here, Python's own.
                    cwd=os.path.dirname(os.__file__),
                    # The signals of a terminal are for this process alone.
                    start_new_session=True,
                )
            with suppress(OSError):  # it has ended already
                ours.sendall(self._settings.model_dump_json(context=WITH_SECRETS).encode() + b"\n")
            ours.setblocking(False)
            ready = asyncio.create_task(_ready_at(ours))
            ended = asyncio.create_task(process.wait())
            stopped = asyncio.create_task(self._stop.wait())
            await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if ended.done():
                await asyncio.wait((ready,), timeout=LAST_WORD_SECONDS)
            ready.cancel()
            await asyncio.wait((ready,))
        # The socket is closed by now, which tells the process to drain and end.
        if not ended.done():
            await self._wait(process, ended)
        code = await ended
        began = None if ready.cancelled() else ready.result()
        return code, None if began is None else monotonic() - began

    async def _wait(self, process: Process, ended: asyncio.Task[int]) -> None:
        seconds = self._settings.drain_timeout + PATIENCE_SECONDS
        done, _ = await asyncio.wait((ended,), timeout=seconds)
        if not done:
            log.error("killed", reason="did not end in time", seconds=seconds)
            process.kill()


async def supervise(settings: Settings) -> int:
    """Serve over Envoy until SIGTERM or SIGINT; returns the exit code.

    Raises: UsageError.
    """
    supervisor = Supervisor(settings)
    loop = asyncio.get_running_loop()
    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, supervisor.on_signal)
    return await supervisor.run()


def _working_directory(settings: Settings) -> int:
    """A descriptor of where the command was started, which need not be known to absolute paths."""
    try:
        return os.open(".", os.O_PATH)
    except OSError as error:
        if settings.models.is_absolute() and settings.cache.is_absolute():
            return os.open("/", os.O_PATH)
        raise UsageError(
            f"models, cache: a path begins at the working directory: {error.strerror}; start in "
            "another one, or give whole paths"
        ) from None


def _bury_orphans() -> None:
    """Reap what a process that crashed has left, which comes to this one in a container."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


async def _ready_at(control: socket.socket) -> float | None:
    """When the process said that it is ready, by the monotonic clock; None if it ended before."""
    try:
        said = await asyncio.get_running_loop().sock_recv(control, 64)
    except OSError:
        return None
    return monotonic() if said else None


def _reserved(settings: Settings) -> tuple[socket.socket, socket.socket]:
    """Sockets for gRPC and HTTP, which do not listen. Raises: UsageError."""
    grpc = bound("grpc-address", settings.grpc_address)
    http = bound("http-address", settings.http_address)
    (grpc_host, grpc_port), (http_host, http_port) = (one.getsockname()[:2] for one in (grpc, http))
    # Sockets that do not listen may share a port; those that will cannot.
    if grpc_port == http_port and (grpc_host == http_host or {grpc_host, http_host} & ANY_HOST):
        raise UsageError(
            f"http-address: {settings.http_address} has the port of grpc-address, "
            f"{settings.grpc_address}; give it another"
        )
    return grpc, http


def _address(one: socket.socket) -> str:
    ip, port = one.getsockname()[:2]
    return f"[{ip}]:{port}" if one.family == socket.AF_INET6 else f"{ip}:{port}"
