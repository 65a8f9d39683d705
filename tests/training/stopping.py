"""Ways to stop a run: an interrupt, a full disk."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from training.runs import Run


class StoppedRun(Run):
    """A run that is interrupted once `epochs` are saved."""

    epochs = 1

    def save(self, checkpoint: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> None:
        super().save(checkpoint, log)
        if len(log) == self.epochs:
            raise KeyboardInterrupt


class UnbegunRun(StoppedRun):
    """A run that is interrupted before its first epoch."""

    epochs = 0


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file grows beyond `limit` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
