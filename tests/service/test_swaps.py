"""Version after version under load: nothing is lost, nothing is mixed, nothing stays behind."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

import convoy
from convoy.v1 import image_classifier_pb2 as pb
from tests.bundles import expected, make_bundle
from tests.servers import PATIENCE, TOKEN, Running, server_process

CLIENTS = 4
SWAPS = 100
SETTLED = 5
"""Swaps after which memory is measured for the first time."""
PIXELS = np.full((1, 16, 16, 3), (60, 20, 0), np.uint8)
REQUEST = pb.ClassifyRequest(
    images=[pb.Image(pixels=pb.Pixels(height=16, width=16, channels=3, data=PIXELS.tobytes()))],
    top_k=1,
)


def gain(version: int) -> float:
    """By which neighbours can be told from their numbers."""
    return 4.0 + version % 7


def add_version(models: Path, version: int) -> None:
    """Write a whole version, and take those away that nobody can want any more."""
    make_bundle(models, version=version, size=16, gain=gain(version))
    shutil.rmtree(models / "tiny" / str(version - 3), ignore_errors=True)


def check(response: pb.ClassifyResponse) -> int:
    """The version that answered, whose numbers they must be."""
    (wanted,) = expected(PIXELS, gain=gain(response.version))
    got = response.predictions[0].classes[0].probability
    assert got == pytest.approx(wanted.max(), abs=1e-5), response.version
    return int(response.version)


@contextmanager
def callers(server: Running) -> Iterator[list[int]]:
    """Clients that call one after the other; the versions that answered, in the end."""
    stop = threading.Event()
    versions: list[int] = []

    def call() -> list[int]:
        seen = []
        with server.stub() as stub:
            while not stop.is_set():
                seen.append(check(stub.Classify(REQUEST, timeout=PATIENCE)))
        assert seen == sorted(seen)
        return seen

    with ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(call) for _ in range(CLIENTS)]
        try:
            yield versions
        finally:
            stop.set()
        for one in running:
            versions += one.result()


def test_a_hundred_swaps_under_load(tmp_path: Path, front: str) -> None:
    add_version(tmp_path, 1)
    flags = (f"--front={front}", f"--control-token={TOKEN}")
    memory = {}
    with (
        server_process(tmp_path, *flags) as server,
        convoy.ModelControl(server.grpc_address, TOKEN) as control,
    ):
        with callers(server) as versions:
            for version in range(2, 2 + SWAPS):
                add_version(tmp_path, version)
                assert control.load("tiny").versions == (version,)
                memory[version - 1] = server.memory("VmRSS")
        assert set(versions) <= set(range(1, 2 + SWAPS))
        assert len(set(versions)) > SWAPS / 2
    assert memory[SWAPS] < 1.05 * memory[SETTLED]


def test_a_server_that_is_killed_in_a_swap_serves_when_it_is_back(tmp_path: Path) -> None:
    for version in (1, 2, 3):
        make_bundle(tmp_path, version=version, size=16, gain=gain(version))
    (tmp_path / "models.toml").write_text('[tiny]\nversions = "all"\nlabels = {stable = 1}\n')
    flags = ("--front=grpcio", f"--control-token={TOKEN}")
    for attempt in range(8):
        with server_process(tmp_path, *flags) as server:
            with server.stub() as stub:
                assert check(stub.Classify(REQUEST, timeout=PATIENCE)) in (1, 2, 3)
            with convoy.ModelControl(server.grpc_address, TOKEN) as control:
                promotions = [
                    threading.Thread(target=promote, args=(control, version))
                    for version in (2, 3, 1, 2, 3)[: 1 + attempt % 5]
                ]
                for one in promotions:
                    one.start()
                promotions[-1].join(0.002 * attempt)
                assert server.process is not None
                server.process.kill()
                for one in promotions:
                    one.join(PATIENCE)


def promote(control: convoy.ModelControl, version: int) -> None:
    """Try; the server is about to be killed."""
    with suppress(convoy.Unavailable):
        control.promote("tiny", version)


def test_a_server_that_is_killed_in_a_load_serves_when_it_is_back(
    tmp_path: Path, front: str
) -> None:
    make_bundle(tmp_path, version=1, size=16, gain=gain(1))
    flags = (f"--front={front}", f"--control-token={TOKEN}")
    for version in range(2, 8):
        with server_process(tmp_path, *flags) as server:
            with server.stub() as stub:
                assert check(stub.Classify(REQUEST, timeout=PATIENCE)) == version - 1
            add_version(tmp_path, version)
            with convoy.ModelControl(server.grpc_address, TOKEN, timeout=5) as control:
                loading = threading.Thread(target=load, args=(control,))
                loading.start()
                loading.join(0.003 * version)
                os.kill(server.serving_process(), signal.SIGKILL)
                assert server.process is not None
                server.process.kill()
                loading.join(PATIENCE)


def load(control: convoy.ModelControl) -> None:
    """Try; the server is about to be killed."""
    with suppress(convoy.Unavailable, convoy.Timeout):
        control.load("tiny")
