"""One measurement: start a server, wait for the right answer, load it, check it again, stop it."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from benchmarks.h2load import Load, h2load
from benchmarks.peers.peer import APPS, Peer
from benchmarks.peers.task import Setting, Task
from benchmarks.processes import PATIENCE, ROOT, Server
from benchmarks.workloads import Contender

MEMORY_SECONDS = 0.5  # between two looks
COROUTINES = 64


@dataclass(frozen=True)
class Round:
    """Requests of one image; rates a second, processor microseconds a request, seconds, bytes."""

    rate: float
    cpu_us: float
    failed: int
    memory: int = 0
    cold_start: float = 0.0
    application: float | None = None
    """Requests a second of a Python application with 64 coroutines and the stock client."""


def measure(peer: Peer, task: Task, setting: Setting, seconds: float, *, clients: bool) -> Round:
    """Measure one server for about `seconds`, and as long through its client where `clients`.

    Raises: WrongAnswer; SystemExit where it does not start or does not answer.
    """
    body = peer.body(task)
    # A short path: it becomes part of the names of sockets.
    with tempfile.TemporaryDirectory(prefix="peer") as name:
        folder, begin = Path(name), time.perf_counter()
        file = folder / "body"
        file.write_bytes(body)
        with peer.serve(folder, task, setting) as server:
            reply = first_answer(peer, server, body)
            cold = time.perf_counter() - begin
            peer.check(server, task, reply)
            warm = load(peer, server, task, file, 4 * task.load.in_flight)
            warm = load(peer, server, task, file, round(warm.requests / warm.seconds * 0.5))
            before, cpu = server.answered(), server.cpu_seconds()
            with memory_peak(server) as peak:
                done = load(peer, server, task, file, int(warm.requests / warm.seconds * seconds))
            spent = server.cpu_seconds() - cpu
            failed = peer.failed(done, reply, server, before)
            rate = application(peer, server, task, seconds) if clients else None
            peer.check(server, task, peer.post(server, body))
    rest = (failed, max(peak), cold, rate)
    return Round(done.requests / done.seconds, spent / done.requests * 1e6, *rest)


def measure_bare(contender: Contender, seconds: float) -> Round:
    """Run the loop without a server for about `seconds`."""
    contender.run(64)
    wall, _ = contender.run(128)
    images = max(64, int(128 / wall * seconds))
    wall, cpu = contender.run(images)
    return Round(images / wall, cpu / images * 1e6, 0)


def first_answer(peer: Peer, server: Server, body: bytes) -> bytes:
    """Call until it answers. Raises: SystemExit where it does not."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return peer.post(server, body)
        except (OSError, grpc.RpcError) as error:
            if time.monotonic() > end:
                reason = error.details() if isinstance(error, grpc.Call) else error
                raise SystemExit(f"{peer.name} does not answer: {reason}") from None
            time.sleep(0.02)


def load(peer: Peer, server: Server, task: Task, body: Path, requests: int) -> Load:
    """So many requests, at least one for each that is in flight."""
    return h2load(
        f"http://{server.grpc_address}{peer.url_path}",
        body,
        requests=max(requests, task.load.in_flight),
        in_flight=task.load.in_flight,
        headers=peer.headers,
        http1=peer.http1,
    )


@contextmanager
def memory_peak(server: Server) -> Iterator[list[int]]:
    """Look at the server's memory during the block; yields what was seen, in bytes."""
    seen, over = [server.resident_bytes()], threading.Event()

    def look() -> None:
        while not over.wait(MEMORY_SECONDS):
            seen.append(server.resident_bytes())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
        seen.append(server.resident_bytes())


def application(peer: Peer, server: Server, task: Task, seconds: float) -> float | None:
    """Requests a second of its Python application; None where it has none."""
    if peer.application is None:
        return None
    with tempfile.NamedTemporaryFile() as image:
        image.write(task.data)
        image.flush()
        url = f"{server.grpc_address}{peer.url_path if peer.http1 else ''}"
        command = [str(peer.python), "-m", APPS + peer.application, url, image.name]
        command += [str(task.side), task.load.network, str(COROUTINES), str(seconds)]
        done = subprocess.run(
            command, cwd=ROOT, check=True, stdout=subprocess.PIPE, timeout=PATIENCE + 3 * seconds
        )
    found = json.loads(done.stdout)
    if found["errors"]:
        raise SystemExit(f"{peer.name}: {found['errors']} calls of its client failed")
    return float(found["requests"] / found["seconds"])
