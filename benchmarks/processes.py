"""Servers and load generators as processes of their own."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

METHOD = "/convoy.v1.ImageClassifier/"


@dataclass(frozen=True)
class Server:
    """A running server."""

    pid: int
    grpc_address: str
    http_address: str | None = None

    def cpu_seconds(self) -> float:
        """Processor time of the process so far, user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def answered(self) -> int | None:
        """Images answered so far, as the server counts them; None where it does not count."""
        if self.http_address is None:
            return None
        with urllib.request.urlopen(f"http://{self.http_address}/metrics", timeout=10) as reply:
            text = reply.read().decode()
        return int(sum(map(float, re.findall(r"^convoy_images_total\{.*\} (\S+)$", text, re.M))))


@contextmanager
def convoy_serve(models: Path, *arguments: str, module: str = "service.cli") -> Iterator[Server]:
    """Run the service on free ports until the end of the block."""
    command = [sys.executable, "-m", module, "--models", str(models), "--device", "cpu"]
    command += ["--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                event = json.loads(line) if line.startswith("{") else {"event": line}
                if event["event"] == "ready":
                    break
            else:
                raise SystemExit(f"{module} did not start: {event['event']}")
            # A pipe that nobody reads would stop the service once it is full.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield Server(process.pid, event["grpc_address"], event["http_address"])
        finally:
            process.terminate()


@contextmanager
def prototype(model: Path) -> Iterator[Server]:
    """Run benchmarks.prototype until the end of the block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.prototype", str(model), str(port)]
    with subprocess.Popen(command) as process:
        try:
            _wait_for_port(port)
            yield Server(process.pid, f"127.0.0.1:{port}")
        finally:
            process.kill()


def _wait_for_port(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("the prototype did not start")


def require_h2load() -> None:
    """Stop with one line where the load generator is missing."""
    if shutil.which("h2load") is None:
        raise SystemExit("h2load is missing; it comes with Debian's package nghttp2-client")


def h2load(
    server: Server, method: str, body: Path, *, requests: int, clients: int, streams: int
) -> float:
    """Send `requests` times the framed messages of `body`, clients x streams in flight.

    A C client: a Python one would cost more than the server it measures.

    Returns: seconds. Raises: SystemExit where a call failed on the HTTP level.
    """
    output = subprocess.run(
        [
            *("h2load", "-n", str(requests), "-c", str(clients), "-m", str(streams)),
            *("-d", str(body), "-H", "content-type: application/grpc", "-H", "te: trailers"),
            *("-w", "24", "-W", "24", f"http://{server.grpc_address}{METHOD}{method}"),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    done = re.search(r"finished in ([\d.]+)(us|ms|s|m)", output)
    good = re.search(r"status codes: (\d+) 2xx", output)
    if done is None or good is None or int(good[1]) != requests:
        raise SystemExit(f"h2load: not every call succeeded:\n{output}")
    return float(done[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}[done[2]]
