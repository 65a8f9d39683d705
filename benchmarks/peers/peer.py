"""What all the servers have in common: how one is started, called and held to the right answer."""

from __future__ import annotations

import os
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np

from benchmarks.h2load import GRPC, Load
from benchmarks.peers.environments import python_of, version_of
from benchmarks.peers.task import Setting, Task, settings
from benchmarks.processes import ROOT, Server, free_port, started, wait_for_port

APPS = "benchmarks.peers.apps."
CALL_SECONDS = 30.0


class Peer(ABC):
    """A server in an environment of its own, started anew for each measurement.

    Raises: Unavailable where it cannot be had here.
    """

    name: str
    packages: tuple[str, ...]
    """What pip installs; the first is the server."""
    url_path: str
    headers: Sequence[str] = GRPC
    http1 = False
    application: str | None = None
    """Module of `apps`: its stock client as a Python application uses it."""

    def __init__(self) -> None:
        self.python = python_of(self.name, self.packages)
        self.version = version_of(self.python, self.packages[0].partition("[")[0])

    def settings(self) -> tuple[Setting, ...]:
        """What it is tried with; the fastest is measured."""
        return settings()

    @contextmanager
    def serve(self, folder: Path, task: Task, setting: Setting) -> Iterator[Server]:
        """Run until the end of the block; yields once the port is open."""
        port = free_port()
        command = self.command(port, folder, task, setting)
        environment = self.environment(task, setting)
        with (
            (folder / "log").open("w") as log,
            started(command, cwd=folder, env=environment, stdout=log, stderr=log) as process,
        ):
            try:
                wait_for_port(port, process)
                yield Server(process.pid, f"127.0.0.1:{port}")
            except SystemExit as error:
                raise SystemExit(f"{error}; it said: {_last_words(Path(log.name))}") from None

    @abstractmethod
    def command(self, port: int, folder: Path, task: Task, setting: Setting) -> list[str]:
        """What starts it on a port; `folder` is its own."""

    def environment(self, task: Task, setting: Setting) -> dict[str, str]:
        """Its environment variables."""
        return os.environ | {
            "PATH": f"{self.python.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "ORT_DISABLE_TELEMETRY": "1",
            "PEER_MODEL": str(task.bundle.model_path.resolve()),
            "PEER_SIDE": str(task.side),
            "PEER_ENCODED": str(int(task.load.encoded)),
            "PEER_INSTANCES": str(setting.instances),
            "PEER_BATCH": str(setting.batch),
            "PEER_THREADS": str(setting.threads),
        }

    @abstractmethod
    def body(self, task: Task) -> bytes:
        """What a load generator posts: one image."""

    @abstractmethod
    def post(self, server: Server, body: bytes) -> bytes:
        """Call once; returns the body of the answer.

        Raises: OSError or grpc.RpcError where it does not answer (yet).
        """

    def check(self, server: Server, task: Task, reply: bytes) -> None:
        """Hold the body of an answer to the right one. Raises: WrongAnswer."""
        task.check(np.frombuffer(self.values(reply), np.float32))

    def values(self, reply: bytes) -> bytes:
        """The float32 in the body of an answer."""
        return reply

    def failed(self, load: Load, reply: bytes, server: Server, before: int | None) -> int:
        """How many calls of a load failed, judged by the size of a good answer."""
        return load.failed(len(reply))


def _last_words(log: Path) -> str:
    """What a server said about its end."""
    lines = log.read_text().splitlines()
    return " / ".join(([line for line in lines if "rror" in line] or lines)[-3:])[:1000]


class HttpPeer(Peer):
    """Answers an HTTP POST with float32 in a row."""

    headers = ("content-type: application/octet-stream",)
    http1 = True

    def post(self, server: Server, body: bytes) -> bytes:
        """Over urllib."""
        url = f"http://{server.grpc_address}{self.url_path}"
        headers = dict(line.split(": ") for line in self.headers)
        request = urllib.request.Request(url, body, headers)
        with urllib.request.urlopen(request, timeout=CALL_SECONDS) as reply:
            return bytes(reply.read())


class GrpcPeer(Peer):
    """Answers a unary gRPC call."""

    def post(self, server: Server, body: bytes) -> bytes:
        """Over grpcio; bodies have gRPC's prefix of five bytes."""
        with grpc.insecure_channel(server.grpc_address) as channel:
            reply: bytes = channel.unary_unary(self.url_path)(body[5:], timeout=CALL_SECONDS)
        return b"\0" + len(reply).to_bytes(4, "big") + reply
