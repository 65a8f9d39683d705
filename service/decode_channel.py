"""The service's end of a process that decodes; see service/decode_process.py."""

from __future__ import annotations

import asyncio
import math
import mmap
import os
import signal
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray

from convoy.imaging import MAX_SIDE, InputSpec, Limits
from service import decode_process as protocol
from service.arena import Arena
from service.awake import AWAKE
from service.errors import InvalidRequest, StartupError
from service.fork_server import FORK_SERVER
from service.shares import Shares

# A process has so many images in hand that it need not wait for the next ones, but no more than it
# decodes in so many seconds at the pace of late, or of so many bytes: others would wait for them.
WINDOW, WINDOW_SECONDS, WINDOW_BYTES = 12, 0.01, 2**19
# The same where there are others.
DIVIDED_WINDOW_SECONDS = 0.002
FIRST_PACE, LEAST_PACE = 0.0005, 1e-6
# The pace follows a slow image at once, and fast ones by this much each.
PACE_GAIN = 0.1
LARGEST_OUTPUT = 3 * MAX_SIDE**2

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class Wanted:
    """Images that are wanted together."""

    result: asyncio.Future[None]
    left: int
    """Images that are still to be decoded."""


@dataclass(slots=True, eq=False)
class Job:
    """One of the images that are wanted."""

    wanted: Wanted
    data: bytes
    spec: InputSpec
    out: NDArray[np.uint8]
    """Where its pixels [H, W, C] go."""
    name: str
    """What errors call it."""
    line: str
    suspect: bool = False
    """Whether a process ended that had it in hand."""

    def settle(self, outcome: int, pixels: NDArray[np.uint8], text: str) -> None:
        """Take what became of it."""
        if outcome == protocol.REFUSED:
            self.fail(InvalidRequest(f"{self.name}: {text}"))
        elif outcome == protocol.FAILED:
            self.fail(RuntimeError(f"decoding {self.name}: {text}"))
        elif not self.wanted.result.done():
            self.out[...] = pixels.reshape(self.spec.shape)
            self.wanted.left -= 1
            if not self.wanted.left:
                self.wanted.result.set_result(None)

    def fail(self, error: Exception) -> None:
        """Fail all of them, unless that is over already."""
        if not self.wanted.result.done():
            self.wanted.result.set_exception(error)


@dataclass(slots=True)
class Pace:
    """How fast images are decoded, and so how many of them a process should have in hand."""

    shares: Shares
    seconds: float = FIRST_PACE
    """Of processor time that an image takes, by the slower ones of late."""

    def note(self, seconds: float) -> None:
        """Take into account what one took."""
        self.seconds = max(seconds, self.seconds + PACE_GAIN * (seconds - self.seconds))

    def allowed(self) -> int:
        """How many images a process may have in hand; it may always have one."""
        window = DIVIDED_WINDOW_SECONDS if self.shares.divided else WINDOW_SECONDS
        return min(WINDOW, math.ceil(window / max(self.seconds, LEAST_PACE)) - 1)


class Channel:
    """To one process, which is started by this; used from the event loop it is made in.

    All of a service share one pace, by which they know how many images to have in hand.
    `on_results` is called with the line and the processor time of each image that it has dealt
    with, `on_end` with what it had in hand where it ends by itself.

    Raises: StartupError.
    """

    def __init__(
        self,
        limits: Limits,
        pace: Pace,
        on_results: Callable[[list[tuple[str, float]]], None],
        on_end: Callable[[Channel, list[Job]], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._pace, self._on_results, self._on_end = pace, on_results, on_end
        self.ready: asyncio.Future[bool] = self._loop.create_future()
        """Whether it has started, once that is known."""
        self._specs: dict[InputSpec, int] = {}
        self._jobs: dict[int, tuple[Job, int, int, int]] = {}
        """Those in hand by number, with the address and the size of their block, and the pixels'
        address."""
        self._added: list[bytes] = []
        """Jobs for the next message."""
        self._numbers = 0
        self._alone = False
        """Whether the one that it has in hand is a suspect."""
        self._bytes = 0
        """Of the files and pixels in hand."""
        self.pid = 0
        """Of the process; 0 until it has started."""
        self._moved = AWAKE.seconds()
        """When it last answered, or got something while it had nothing in hand."""
        try:
            self._socket = self._start(limits)
        except OSError as error:
            reason = f"cannot start a process that decodes: {error.strerror}"
            raise StartupError(reason) from None
        self._memory = np.frombuffer(self._arena.view, np.uint8)
        self._loop.add_reader(self._socket.fileno(), self._on_readable)

    def _start(self, limits: Limits) -> socket.socket:
        # However the others lie, there is a gap for the largest.
        self._arena = Arena((WINDOW + 1) * (limits.max_bytes + LARGEST_OUTPUT))
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.setblocking(False)
            with theirs:
                try:
                    FORK_SERVER.fork(limits, theirs.fileno(), self._arena.fd)
                except OSError:
                    ours.close()
                    raise
        finally:
            os.close(self._arena.fd)
        return ours

    @property
    def closed(self) -> bool:
        """Whether it is of no use any more."""
        return self._socket.fileno() < 0

    @property
    def in_hand(self) -> int:
        """How many jobs it has."""
        return len(self._jobs)

    def resident_bytes(self) -> int:
        """Memory that the process holds, what it shares with others included."""
        try:
            with open(f"/proc/{self.pid}/statm") as file:
                return int(file.read().split()[1]) * mmap.PAGESIZE
        except OSError:  # it has ended, or not yet begun
            return 0

    def has_room(self, allowed: int) -> bool:
        """Whether it may get another job, where it may have `allowed` in hand."""
        if count := len(self._jobs):
            return count < allowed and self._bytes < WINDOW_BYTES and not self._alone
        return self.ready.done() and not self.closed

    def kill_if_stuck(self, seconds: float) -> None:
        """Kill a process that has done nothing for so long, though it could."""
        if self._jobs and AWAKE.seconds() - self._moved > seconds:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def add(self, job: Job) -> None:
        """Hand a job over with the next `flush`; a suspect gets no company."""
        if job.spec not in self._specs:
            self._specs[job.spec] = len(self._specs)
            self.flush()
            self._send(protocol.SPEC + job.spec.model_dump_json().encode())
        length = len(job.data)
        size = length + job.spec.nbytes
        if not self._jobs:
            self._moved = AWAKE.seconds()
        begin = self._arena.take(size)
        out = begin + length
        self._memory[begin:out] = np.frombuffer(job.data, np.uint8)
        self._numbers += 1
        number = self._numbers % 2**32
        self._jobs[number] = job, begin, size, out
        self._bytes += size
        self._alone = job.suspect
        self._added.append(protocol.JOB.pack(number, self._specs[job.spec], begin, length, out))

    def flush(self) -> None:
        """Send what was added."""
        if self._added:
            self._send(protocol.JOBS + b"".join(self._added))
            self._added.clear()

    def close(self) -> list[Job]:
        """Let the process end; returns what it had in hand."""
        if not self.closed:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
        jobs = [job for job, *_ in self._jobs.values()]
        self._jobs.clear()
        return jobs

    def _send(self, message: bytes) -> None:
        try:
            self._socket.send(message)
        except OSError:  # it has ended; if it has not, it ends now, and is read to have
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _on_readable(self) -> None:
        while not self.closed:
            try:
                message = self._socket.recv(protocol.MESSAGE_BYTES)
            except ConnectionResetError:  # once, before the last messages of one that has ended
                continue
            except BlockingIOError:
                return
            if not message:
                if not self.ready.done():
                    self.ready.set_result(False)
                self._on_end(self, self.close())
            elif not self.ready.done():
                (self.pid,) = protocol.STARTED.unpack(message)
                self.ready.set_result(True)
                self._on_results([])
            else:
                try:
                    results = self._results(message)
                except (KeyError, ValueError, struct.error):
                    log.exception("decoder_answered_nonsense")
                    self._on_end(self, self.close())
                else:
                    self._on_results(results)

    def _results(self, message: bytes) -> list[tuple[str, float]]:
        times = []
        position = 0
        self._moved = AWAKE.seconds()
        while position < len(message):
            number, outcome, seconds, length = protocol.RESULT.unpack_from(message, position)
            position += protocol.RESULT.size + length
            job, begin, size, out = self._jobs.pop(number)
            self._alone = False
            text = message[position - length : position].decode(errors="replace")
            job.settle(outcome, self._memory[out : begin + size], text)
            self._arena.give_back(begin)
            self._bytes -= size
            self._pace.note(seconds)
            times.append((job.line, seconds))
        return times
