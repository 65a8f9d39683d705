"""Real servers for tests: in a thread of this process, or as the process a user would start."""

from __future__ import annotations

import asyncio
import os
import queue
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from convoy.v1 import image_classifier_pb2_grpc as rpc
from service.ready import wait_until_ready
from service.server import Server
from service.settings import Settings

# Longer than any test waits when all is well: it only keeps a broken one from hanging.
PATIENCE = 30.0
# Of servers whose models may be changed.
TOKEN = "correct-horse-battery"


@dataclass(frozen=True)
class Running:
    """Where a server answers."""

    grpc_address: str
    http_address: str
    process: subprocess.Popen[str] | None = None

    @contextmanager
    def stub(self) -> Iterator[rpc.ImageClassifierStub]:
        """A bare client of the generated code."""
        with grpc.insecure_channel(self.grpc_address) as channel:
            yield rpc.ImageClassifierStub(channel)

    def get(self, path: str) -> str:
        """The body at a path of the HTTP port. Raises: urllib.error.HTTPError."""
        with urllib.request.urlopen(f"http://{self.http_address}{path}", timeout=PATIENCE) as reply:
            return str(reply.read().decode())

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the samples of that name whose labels include these."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.get("/metrics"))
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def memory(self, field: str) -> int:
        """Bytes of the serving process, as /proc/PID/status names them: VmHWM is the peak."""
        status = Path(f"/proc/{self.serving_process()}/status").read_text()
        return 1024 * int(re.search(rf"{field}:\s+(\d+)", status)[1])  # type: ignore[index]

    def serving_process(self) -> int:
        """The process that answers: the one that was started, or the Envoy that it has started."""
        assert self.process is not None
        pid = self.process.pid
        return next((one for one in children(pid) if _name(one) == "envoy"), pid)

    def decoders(self) -> set[int]:
        """The processes that decode images."""
        return decoders(self.serving_process())

    def wait_for_metric(self, value: float, name: str, **labels: str) -> None:
        """Block until a metric has this value."""
        end = time.monotonic() + PATIENCE
        while self.metric(name, **labels) != value:
            assert time.monotonic() < end, f"{name} {labels} never became {value}"
            time.sleep(0.01)  # else this would keep the server from what is waited for


def children(pid: int) -> list[int]:
    """The processes that any thread of a process has started and that live."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # it has ended meanwhile
            found += map(int, (task / "children").read_text().split())
    return found


def decoders(pid: int) -> set[int]:
    """The processes that decode images for the service in a process."""
    return {decoder for fork_server in children(pid) for decoder in children(fork_server)}


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


@contextmanager
def running_server(models: Path, **settings: Any) -> Iterator[Running]:
    """Run the service on free ports of 127.0.0.1, and see it drain.

    With the front grpcio it runs in a thread of this process, with another as a process.
    """
    if settings.get("front", os.environ.get("CONVOY_FRONT", "grpcio")) == "grpcio":
        with _server_thread(models, **settings) as running:
            yield running
        return
    flags = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in settings.items()
    ]
    with server_process(models, *flags) as running:
        yield running
        assert running.process is not None
        running.process.terminate()
        assert running.process.wait(PATIENCE) == 0


@contextmanager
def _server_thread(models: Path, **settings: Any) -> Iterator[Running]:
    wanted = {"models": models, "device": "cpu", "drain_timeout": PATIENCE}
    wanted |= {"grpc_address": "127.0.0.1:0", "http_address": "127.0.0.1:0", **settings}
    started: queue.Queue[Server | BaseException] = queue.Queue()
    stop, drained = threading.Event(), []

    async def life() -> None:
        server = Server(Settings(**wanted))
        try:
            await server.listen()
            await server.load()
            server.answer()
        except BaseException:
            await server.close()
            raise
        started.put(server)
        await asyncio.to_thread(stop.wait)
        drained.append(await server.drain())
        await server.close()

    def run() -> None:
        try:
            uvloop.run(life())
        except BaseException as error:
            started.put(error)

    thread = threading.Thread(target=run)
    thread.start()
    server = started.get(timeout=PATIENCE)
    try:
        if isinstance(server, BaseException):
            raise server
        yield Running(server.grpc_address, server.http_address)
    finally:
        stop.set()
        thread.join(PATIENCE)
    assert drained == [True]


def start_process(models: Path, *arguments: str, **popen: Any) -> subprocess.Popen[str]:
    """Start `convoy-serve` on free ports; its log lines come on stderr."""
    command = [sys.executable, "-m", "service.cli", "--models", str(models), "--device", "cpu"]
    command += ["--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0", *arguments]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **popen
    )


@contextmanager
def server_process(models: Path, *arguments: str, **popen: Any) -> Iterator[Running]:
    """Run `convoy-serve` as a process of its own, until the end of the block at the latest."""
    with start_process(models, *arguments, **popen) as process:
        assert process.stderr is not None
        # A pipe that nobody reads would stop the service once it is full.
        reader = threading.Thread(target=sys.stderr.writelines, args=(process.stderr,))
        try:
            ready = wait_until_ready(process.stderr)[-1]
            reader.start()
            yield Running(ready["grpc_address"], ready["http_address"], process)
        finally:
            process.kill()
            if reader.is_alive():
                reader.join(PATIENCE)
