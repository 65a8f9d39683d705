"""The service's end of the process that forks those that decode; see service/decode_process.py."""

from __future__ import annotations

import atexit
import os
import socket
from contextlib import suppress
from threading import Lock

from convoy.imaging import Limits
from service import decode_process as protocol
from service.interpreter import absolute_paths, python


class ForkServer:
    """Started when it is needed first, and again where it has ended; for any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._orders: socket.socket | None = None
        self._pid = 0

    def fork(self, limits: Limits, channel: int, memory: int) -> None:
        """Start a process with this socket and this memory, both file descriptors.

        Whether it has started, the socket tells. Raises: OSError.
        """
        order = protocol.FORK.pack(limits.max_bytes, limits.max_pixels)
        with self._lock:
            for _ in range(2):
                if self._orders is None:
                    self._orders = self._start()
                try:
                    socket.send_fds(self._orders, [order], [channel, memory])
                    return
                except OSError:  # it has ended
                    self.close()

    def close(self) -> None:
        """Let it end."""
        if self._orders is not None:
            self._orders.close()
            self._orders = None
            with suppress(ChildProcessError):
                os.waitpid(self._pid, 0)

    def _start(self) -> socket.socket:
        program = python()
        # It forks, so NumPy must have no threads in it, whatever this process was told.
        environment = {"PYTHONPATH": absolute_paths(), "OPENBLAS_NUM_THREADS": "1"}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._pid = os.posix_spawn(
                    program,
                    [program, "-P", "-m", protocol.__name__],
                    {**os.environ, **environment},
                    file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0)],
                )
            except OSError:
                ours.close()
                raise
        return ours


FORK_SERVER = ForkServer()
atexit.register(FORK_SERVER.close)
