"""The load generator: h2load, a C client. A Python one would cost more than what it measures."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import Message

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
SILENCE = "60"  # seconds without a byte after which a call has failed
GRPC = ("content-type: application/grpc", "te: trailers")


@dataclass(frozen=True)
class Load:
    """What became of a load; times in seconds."""

    requests: int
    seconds: float
    mean: float
    """Of the requests, from the first byte sent to the last received."""
    answer_bytes: int
    """Of all answers, headers left out."""

    def failed(self, answer: int) -> int:
        """How many calls got no answer of `answer` bytes.

        h2load takes every HTTP 200 for a success, and a gRPC error is an HTTP 200 without data.
        """
        return max(0, self.requests - round(self.answer_bytes / answer))


def require_h2load() -> None:
    """Stop with one line where the load generator is missing."""
    if shutil.which("h2load") is None:
        raise SystemExit("h2load is missing; it comes with Debian's package nghttp2-client")


def framed(*messages: Message) -> bytes:
    """The body of one HTTP/2 stream: gRPC's five-byte prefix and the message, for each."""
    parts = [message.SerializeToString() for message in messages]
    return b"".join(struct.pack(">BI", 0, len(part)) + part for part in parts)


def h2load(
    url: str,
    body: Path,
    *,
    requests: int,
    in_flight: int,
    headers: Sequence[str] = GRPC,
    http1: bool = False,
    log: Path | None = None,
) -> Load:
    """POST the file `body` again and again, `in_flight` at a time.

    Over HTTP/2 these share up to four connections; HTTP/1 needs one for each. `log` is a file to
    note each request in, for `latencies`.

    Raises: SystemExit where a call failed on the HTTP level.
    """
    clients = in_flight if http1 else min(4, in_flight)
    command = ["h2load", "-n", str(requests), "-c", str(clients), "-N", SILENCE]
    # A large window, so that flow control never waits for a server's update.
    command += ["--h1"] if http1 else ["-m", str(in_flight // clients), "-w", "24", "-W", "24"]
    command += [f"--log-file={log}"] if log else []
    for header in headers:
        command += ["-H", header]
    output = subprocess.run(
        [*command, "-d", str(body), url], capture_output=True, text=True, check=True
    ).stdout
    return _read(output, requests)


def latencies(log: Path) -> list[float]:
    """Seconds of each request that h2load noted in a file."""
    return [int(line.split("\t")[2]) / 1e6 for line in log.read_text().splitlines()]


def _read(output: str, requests: int) -> Load:
    done = re.search(r"finished in ([\d.]+)(us|ms|s|m)\b", output)
    good = re.search(r"status codes: (\d+) 2xx", output)
    data = re.search(r"\((\d+)\) data$", output, re.M)
    # The columns differ between versions; their names stand in the line above.
    table = re.search(r"^ +(min .*)\ntime for request:(.*)$", output, re.M)
    if not (done and good and data and table) or int(good[1]) != requests:
        raise SystemExit(f"h2load: not every call succeeded:\n{output}")
    values = re.findall(r"([\d.]+)(us|ms|s|m)\b", table[2])
    mean = values[table[1].replace("+/- sd", "").split().index("mean")]
    return Load(requests, _seconds(*done.groups()), _seconds(*mean), int(data[1]))


def _seconds(number: str, unit: str) -> float:
    return float(number) * _UNITS[unit]
