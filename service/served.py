"""One model that serves: its bundle, its session, the thread that owns it, and its batcher."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from time import monotonic

import numpy as np
import structlog
from numpy.typing import NDArray

from convoy.bundle import Bundle
from service.admission import Admission
from service.batching import Batcher, Item
from service.errors import ModelFailure, OutOfMemory
from service.loading import batch_limit
from service.metrics import ModelMetrics
from service.session import Session
from service.settings import Settings
from service.worker import Worker

log = structlog.get_logger()

Rows = NDArray[np.uint8]
Scores = NDArray[np.float32]


class ServedModel:
    """A bundle that has proved itself on this machine; made by `loading.load`."""

    def __init__(
        self, bundle: Bundle, session: Session, settings: Settings, metrics: ModelMetrics
    ) -> None:
        manifest = bundle.manifest
        self.manifest = manifest
        self.spec = manifest.input
        self.labels = manifest.labels
        self.provider = session.provider
        self.max_batch_size = batch_limit(manifest, settings.max_batch_size)
        self.metrics = metrics
        self._session = session
        self._batch_began = math.inf
        self._worker = Worker(f"onnxruntime-{manifest.name}")
        self.admission = Admission(
            max_images=settings.max_queue_size,
            max_bytes=settings.max_queue_bytes,
            saturated=self.max_batch_size,
        )
        self._batcher: Batcher[Rows, Scores] = Batcher(
            self._run_batch,
            max_batch_size=self.max_batch_size,
            max_delay=settings.max_delay_ms / 1000,
            on_batch=metrics.batch_size.observe,
        )
        metrics.depth = lambda: self._batcher.depth

    async def classify(self, rows: Rows, *, deadline: float) -> list[Item[Rows, Scores]]:
        """Run images [N, H, W, C] in as many batches as they need.

        Returns: items whose results, in order, are probabilities [n, K] of n images each.
        Raises: DeadlineExceeded, ModelFailure.
        """
        count, most = len(rows), self.max_batch_size
        if count <= most:
            return [await self._batcher.submit(rows, size=count, deadline=deadline)]
        tasks = [
            asyncio.create_task(self._batcher.submit(part, size=len(part), deadline=deadline))
            for part in (rows[start : start + most] for start in range(0, count, most))
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    def hangs(self, limit: float) -> bool:
        """Whether the present batch has been computing for more than `limit` seconds."""
        return monotonic() - self._batch_began > limit

    def flush(self) -> None:
        """Let nothing wait for company any more: the service is draining."""
        self._batcher.flush()

    async def close(self) -> None:
        """Stop the batcher and let the session go."""
        await self._batcher.close()
        self._worker.close()

    async def _run_batch(self, batch: list[Rows]) -> Sequence[Scores | Exception]:
        self._batch_began = monotonic()
        try:
            return await self._worker.run(run_rows, self._session, batch, len(self.labels))
        finally:
            self._batch_began = math.inf


def run_rows(session: Session, batch: list[Rows], classes: int) -> list[Scores | Exception]:
    """Run several requests' images as one batch and cut the answer apart again.

    A request whose rows are not finite numbers gets an error; its neighbours do not.
    """
    rows = run_halved(session, batch[0] if len(batch) == 1 else np.concatenate(batch))
    if rows.shape[1] != classes:
        raise ModelFailure(
            f"{rows.shape[1]} probabilities an image, the manifest has {classes} labels"
        )
    results: list[Scores | Exception] = []
    start = 0
    finite = bool(np.isfinite(rows).all())
    for images in batch:
        part = rows[start : start + len(images)]
        start += len(images)
        whole = finite or bool(np.isfinite(part).all())
        results.append(part if whole else ModelFailure("the network gave NaN or infinity"))
    return results


def run_halved(session: Session, images: Rows) -> Scores:
    """Classify images [N, H, W, C] at once, or in halves where the device's memory is short.

    Raises: OutOfMemory where it holds not even one; ModelFailure.
    """
    try:
        return session.run(images)
    except OutOfMemory:
        if len(images) == 1:
            raise
        log.warning("out_of_memory", images=len(images))
        middle = len(images) // 2
        return np.concatenate([run_halved(session, part) for part in np.split(images, [middle])])
