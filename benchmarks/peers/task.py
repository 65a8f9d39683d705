"""What every contender is asked, how it may be set up, and the right answer."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.apps.network import shrunk
from benchmarks.workloads import Contender, Workload, bare, session
from convoy.bundle import Bundle
from convoy.imaging import InputSpec, decode

# Of each probability: batches of other sizes and other builds of ONNX Runtime add in other orders.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Setting:
    """Processes that run the network, images in a batch at most, threads of each network."""

    instances: int
    batch: int
    threads: int

    def __str__(self) -> str:
        if self == DEFAULTS:
            return "its defaults"
        return f"{self.instances} x {self.threads} threads, batch {self.batch}"


DEFAULTS = Setting(0, 0, 0)


def settings() -> tuple[Setting, ...]:
    """What each peer is tried with; the fastest is measured."""
    cores = os.cpu_count() or 1
    return Setting(cores, 16, 1), Setting(cores, 32, 1), Setting(1, 32, cores)


class WrongAnswer(Exception):
    """A contender does not give the network's probabilities."""


@dataclass(frozen=True)
class Task:
    """One workload on one network."""

    load: Workload
    bundle: Bundle

    @property
    def side(self) -> int:
        """Pixels of the network's input."""
        return self.bundle.manifest.input.width

    @property
    def data(self) -> bytes:
        """The image: a JPEG, or its pixels."""
        image = self.load.image
        return image.encoded if self.load.encoded else image.pixels.data

    @cached_property
    def _right(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        spec = self.bundle.manifest.input
        pixels = [self.load.pixels(spec, decoder) for decoder in (decode, pillow)]
        ours, peers = self.run(np.stack(pixels))
        return ours, peers

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Bare ONNX Runtime on uint8 [N, H, W, C]; probabilities [N, K]."""
        answer: NDArray[np.float32] = session(self.bundle.model_path).run(None, {"images": pixels})[
            0
        ]
        return answer

    def check(self, answer: NDArray[np.float32], *, own_decoder: bool = False) -> None:
        """Hold probabilities [K] against bare ONNX Runtime. Raises: WrongAnswer."""
        right = self._right[0 if own_decoder else 1]
        if answer.shape != right.shape or not np.allclose(answer, right, TOLERANCE, 0):
            raise WrongAnswer(f"{answer.ravel()[:3]}... instead of {right[:3]}...")

    def bare(self) -> tuple[Contender, ...]:
        """The loop without a server, with each decoder where they differ."""
        ours = bare(self.bundle, self.load)
        if not self.load.encoded:
            return (ours,)
        return ours, bare(self.bundle, self.load, "bare, the peers' decoder", pillow)


def pillow(data: bytes, spec: InputSpec) -> NDArray[np.uint8]:
    """Decode as the peers do."""
    return shrunk(data, spec.width)
