"""Callers: a steady number of them, or arrivals that wait for nobody.

They run in a process of their own, which collects no garbage and looks at the clock before it
decodes, so that nothing is measured but the wait.
"""

from __future__ import annotations

import gc
import pickle
import random
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from select import select

from benchmarks.http2 import Call, Connection
from benchmarks.processes import METHOD

CALLERS = 16
READ_BYTES = 2**18


@dataclass(frozen=True)
class Target:
    """Whom to call with which ClassifyRequest, in how many seconds to be answered."""

    address: str
    message: bytes
    deadline: float


@dataclass(frozen=True)
class Answers:
    """What became of the calls."""

    calls: list[Call]
    seconds: float
    """Of an open loop, in which they were sent; of a closed one, in which they were answered."""

    @property
    def latencies(self) -> dict[str, list[float]]:
        """By status code, in seconds from when a call was due."""
        found: defaultdict[str, list[float]] = defaultdict(list)
        for call in self.calls:
            found[call.code].append(call.ended - call.due)
        return found

    @property
    def good(self) -> list[float]:
        """Latencies of those that succeeded."""
        return self.latencies["OK"]

    @property
    def errors(self) -> int:
        """How many did not succeed."""
        return len(self.calls) - len(self.good)

    @property
    def rate(self) -> float:
        """How many succeeded, a second."""
        return len(self.good) / self.seconds

    @property
    def lateness(self) -> list[float]:
        """Seconds from when a call was due until it was sent: the wait that is the client's."""
        return [call.sent - call.due for call in self.calls]


def closed_loop(target: Target, seconds: float, callers: int = CALLERS) -> Answers:
    """Call with a steady number of callers."""
    return _apart(_closed_loop, target, seconds, callers)


def open_loop(target: Target, rate: float, seconds: float) -> Answers:
    """Call at random moments (Poisson), `rate` a second, whether others were answered or not."""
    return _apart(_open_loop, target, rate, seconds)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _apart(loop: Callable[..., Answers], *arguments: object) -> Answers:
    command = [sys.executable, "-m", "benchmarks.loops"]
    order = pickle.dumps((loop, arguments))
    done = subprocess.run(command, input=order, stdout=subprocess.PIPE, check=True)
    answers = pickle.loads(done.stdout)
    assert isinstance(answers, Answers)
    return answers


def _closed_loop(target: Target, seconds: float, callers: int) -> Answers:
    line = _Line(target)
    start = time.perf_counter()
    while (now := time.perf_counter()) < start + seconds and not line.http2.broken:
        while line.http2.in_flight < callers:
            line.http2.call(now, now)
        line.wait(start + seconds)
    line.finish()
    if line.http2.broken:  # there is no rate to be had
        raise SystemExit(f"{target.address} has ended the connection: {line.http2.ended[-1].code}")
    return Answers(line.http2.ended, time.perf_counter() - start)


def _open_loop(target: Target, rate: float, seconds: float) -> Answers:
    arrivals, line = random.Random(0), _Line(target)
    due = start = time.perf_counter()
    while (due := due + arrivals.expovariate(rate)) < start + seconds:
        line.wait(due)  # where that is over, too: what was called is to leave, what came be read
        while (now := time.perf_counter()) < due:
            line.wait(due)
        line.http2.call(due, now)
    sending = time.perf_counter() - start
    line.finish()
    return Answers(line.http2.ended, sending)


class _Line:
    """A connection and its socket. No event loop: its timers would be late by a millisecond."""

    def __init__(self, target: Target) -> None:
        host, _, port = target.address.rpartition(":")
        self.http2 = Connection(
            target.address, METHOD + "Classify", target.message, target.deadline
        )
        self._socket = socket.create_connection((host.strip("[]"), int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._open = [self._socket]  # or nothing, once the server has closed it

    def wait(self, until: float) -> None:
        """Send and receive until something has come, or that moment has."""
        self._write()
        expiry = self.http2.expiry
        seconds = max(0.0, min(until, expiry) - time.perf_counter())
        writing = self._open if self.http2.out else []
        readable, _, _ = select(self._open, writing, [], seconds)
        now = time.perf_counter()
        if readable:
            self._read(now)
        if now >= expiry:
            self.http2.expire(now)

    def finish(self) -> None:
        """Wait until all calls have ended."""
        while self.http2.in_flight:
            self.wait(float("inf"))
        self._socket.close()

    def _write(self) -> None:
        try:
            while self.http2.out:
                del self.http2.out[: self._socket.send(self.http2.out)]
        except BlockingIOError:
            return  # the rest follows when the kernel has room
        except ConnectionError:
            self.http2.out.clear()  # what is read next tells why

    def _read(self, now: float) -> None:
        try:
            data = self._socket.recv(READ_BYTES)
        except ConnectionError:
            data = b""
        if data:
            self.http2.receive(data, now)
        else:
            self._open.clear()
            self.http2.close(now)


def main() -> None:
    """Run the loop that comes pickled on stdin; what became of its calls goes to stdout."""
    gc.disable()
    loop, arguments = pickle.load(sys.stdin.buffer)
    pickle.dump(loop(*arguments), sys.stdout.buffer)


if __name__ == "__main__":
    main()
