"""Sessions that tell what became of them."""

from __future__ import annotations

from pathlib import Path

from service.devices import Device
from service.session import Rows, Scores, Session


class Recorder(Session):
    """A session that remembers the sizes of its batches."""

    def __init__(self, model: Path, device: Device, *, threads: int) -> None:
        super().__init__(model, device, threads=threads)
        self.sizes: list[int] = []

    def run(self, *parts: Rows) -> Scores:
        self.sizes.append(sum(map(len, parts)))
        return super().run(*parts)
