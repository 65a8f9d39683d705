"""Servers as processes of their own, and what they use."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from service.errors import StartupError
from service.ready import wait_until_ready

ROOT = Path(__file__).resolve().parent.parent
METHOD = "/convoy.v1.ImageClassifier/"
COMPILED = ROOT / "build" / "compiled"
PATIENCE = 120.0  # seconds that a server may take to start
GRACE = 5.0  # seconds that it may take to end


@dataclass(frozen=True)
class Server:
    """A running server: the process that was started, and all that it started itself."""

    pid: int
    grpc_address: str
    http_address: str | None = None

    def cpu_seconds(self) -> float:
        """Processor time so far, user and system."""
        ticks = 0
        for pid in family(self.pid):
            if fields := _stat(pid):
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> int:
        """Memory it holds now: what is each process's own, and what they share, once."""
        own, shared = 0, 0
        for pid in family(self.pid):
            with suppress(OSError):  # it has ended meanwhile
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
                own += _kibibytes(text, r"Private_\w+")
                shared = max(shared, _kibibytes(text, r"Shared_(?:Clean|Dirty)"))
        return (own + shared) * 1024

    def peak_bytes(self) -> int:
        """The most that its processes have held, each at its own time, shared pages in each."""
        statuses = (Path(f"/proc/{pid}/status").read_text() for pid in family(self.pid))
        return sum(_kibibytes(text, "VmHWM") for text in statuses) * 1024

    def metrics(self) -> dict[str, float]:
        """Its Prometheus metrics now, by name and labels as they stand in the text."""
        with urllib.request.urlopen(f"http://{self.http_address}/metrics", timeout=10) as reply:
            lines = reply.read().decode().splitlines()
        samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def answered(self) -> int | None:
        """Images answered so far, as the server counts them; None where it does not count."""
        return None if self.http_address is None else self.images_of()

    def images_of(self, model: str | None = None) -> int:
        """Images answered so far with a model, or with all, as /metrics tells."""
        wanted = "convoy_images_total{" + (f'model="{model}"' if model else "")
        return int(sum(value for key, value in self.metrics().items() if key.startswith(wanted)))


def _kibibytes(text: str, field: str) -> int:
    return sum(map(int, re.findall(rf"^{field}:\s+(\d+) kB", text, re.M)))


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on; none where the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def family(leader: int) -> set[int]:
    """The processes of the session that `leader` leads, and their descendants."""
    numbers = [int(one.name) for one in Path("/proc").iterdir() if one.name.isdecimal()]
    stats = {pid: fields for pid in numbers if (fields := _stat(pid))}
    found = {pid for pid, fields in stats.items() if int(fields[3]) == leader}
    while more := {pid for pid, fields in stats.items() if int(fields[1]) in found} - found:
        found |= more
    return found


def heed_sigterm() -> None:
    """Have SIGTERM raise SystemExit, so that every server is ended with its block."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


@contextmanager
def started(command: Sequence[str], **options: object) -> Iterator[subprocess.Popen[str]]:
    """Run a command in a session of its own and end all of it with the block."""
    with subprocess.Popen(command, text=True, start_new_session=True, **options) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            members = family(process.pid)
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            process.kill()
            for pid in (members | family(process.pid)) - {process.pid}:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@contextmanager
def convoy_serve(models: Path, *arguments: str, compiled: bool = True) -> Iterator[Server]:
    """Run the service on free ports until the end of the block, compiled as in the image or not.

    Raises: SystemExit where it does not start, or is to be compiled first.
    """
    command = [sys.executable, "-m", "service.cli", "--models", str(models), "--device", "cpu"]
    command += ["--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0", *arguments]
    environment = {**os.environ, **(_compiled() if compiled else {})}
    with started(command, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stderr is not None
        try:
            *events, ready = wait_until_ready(process.stderr)
            if next(one["compiled"] for one in events if one["event"] == "starting") != compiled:
                raise StartupError("its modules are compiled, or not, otherwise than asked for")
        except StartupError as error:
            raise SystemExit(f"convoy-serve did not start: {error}") from None
        # A pipe that nobody reads would stop the service once it is full.
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield Server(process.pid, ready["grpc_address"], ready["http_address"])


def _compiled() -> dict[str, str]:
    """What has Python import the compiled modules. Raises: SystemExit where they are outdated."""
    stamp = COMPILED.with_suffix(".stamp").relative_to(ROOT)
    make = ["env", "--unset=MAKEFLAGS", "make", "--question", "--silent", stamp]
    if subprocess.run(make, cwd=ROOT).returncode:
        raise SystemExit("what is measured is the compiled service: run make compiled")
    return {"PYTHONPATH": str(COMPILED), "PYTHONSAFEPATH": "1"}


@contextmanager
def prototype(model: Path) -> Iterator[Server]:
    """Run benchmarks.prototype until the end of the block."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.prototype", str(model), str(port)]
    with started(command) as process:
        wait_for_port(port, process)
        yield Server(process.pid, f"127.0.0.1:{port}")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[str]) -> None:
    """Return once something listens. Raises: SystemExit where the process ends or hangs."""
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        with suppress(OSError):
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        time.sleep(0.02)
    raise SystemExit(f"{Path(process.args[0]).name} did not start")
