"""One model that serves: its bundle, its sessions with their threads, and its batcher."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import structlog

from convoy.bundle import Bundle
from service.admission import Admission
from service.awake import AWAKE
from service.batching import Batcher, Item
from service.cache import Answers, Store
from service.devices import CPU
from service.drift import watch
from service.errors import ModelFailure, OutOfMemory
from service.loading import batch_limit
from service.metrics import ModelMetrics
from service.session import Rows, Scores, Session
from service.settings import Settings
from service.shares import Shares
from service.worker import Worker

log = structlog.get_logger()


class Slot:
    """A session and the thread that owns it: one batch at a time, in their order."""

    def __init__(self, session: Session, worker: Worker) -> None:
        self._begun: deque[float] = deque()
        """When the batches were handed over that have not run yet."""
        self._session = session
        self._worker = worker
        self._told = worker.seconds

    async def run(self, batch: list[Rows], classes: int) -> list[Scores | Exception]:
        """`run_rows` in the thread."""
        self._begun.append(AWAKE.seconds())
        try:
            return await self._worker.run(run_rows, self._session, batch, classes)
        finally:
            self._begun.popleft()
            if self._begun:  # that one begins only now
                self._begun[0] = AWAKE.seconds()

    @property
    def busy(self) -> bool:
        """Whether it has a batch."""
        return bool(self._begun)

    def hangs(self, limit: float) -> bool:
        """Whether a batch has been computing for more than `limit` seconds."""
        return self.busy and AWAKE.seconds() - self._begun[0] > limit

    def spent(self) -> float:
        """Seconds of processor time that the thread has spent since this was asked last."""
        told, self._told = self._told, self._worker.seconds
        return self._told - told

    def close(self) -> None:
        """Let the thread end."""
        self._worker.close()


class Leases:
    """Who uses a model now: each holds it open with a `with` block."""

    def __init__(self) -> None:
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    def __enter__(self) -> None:
        """Keep the model open until the end of the block."""
        self._count += 1
        self._none.clear()

    def __exit__(self, *error: object) -> None:
        self._count -= 1
        if not self._count:
            self._none.set()

    async def ended(self) -> None:
        """Wait until there is none."""
        await self._none.wait()


class ServedModel:
    """A bundle whose sessions have proved themselves on this machine."""

    def __init__(
        self,
        bundle: Bundle,
        slots: list[Slot],
        settings: Settings,
        metrics: ModelMetrics,
        shares: Shares,
        *,
        background: bool = False,
        store: Store | None = None,
    ) -> None:
        manifest = bundle.manifest
        self.manifest = manifest
        self.settings = settings
        self.background = background
        """Whether its threads run only where no other wants to."""
        self.spec = manifest.input
        self.labels = manifest.labels
        self.provider = metrics.provider
        self.max_batch_size = batch_limit(manifest, settings.max_batch_size)
        self.metrics = metrics
        self.concurrency = len(slots)
        """Batches that run at the same time."""
        self.expected = 0
        """Images that are being decoded for it."""
        self.leases = Leases()
        self.tried = False
        """Whether it has been a challenger, and not live since."""
        self.retired = False
        """Whether it closes when its last lease has ended: nobody may take it up again."""
        self._shares = shares
        self._slots = slots
        # Where only one batch runs at a time, the thread is to find the next one at hand.
        ahead = len(slots) == 1
        self._free_slots = slots * 2 if ahead else list(slots)
        """A slot for each further batch that may be handed over."""
        self.admission = Admission(
            max_images=settings.queue_sizes,
            max_bytes=settings.max_queue_bytes,
            saturated=self.max_batch_size,
        )
        self._batcher: Batcher[Rows, Scores] = Batcher(
            self._run_batch,
            max_batch_size=self.max_batch_size,
            max_delay=settings.max_delay_ms / 1000,
            levels=settings.priority_levels,
            concurrency=len(slots),
            ahead=ahead,
            expected=lambda: self.expected,
            on_batch=metrics.batch_size.observe,
        )
        metrics.depth = lambda: self._batcher.depth
        metrics.drift = watch(manifest, window=settings.drift_window)
        self.answers = None if store is None else Answers(store, metrics.cache)
        """What it has answered, where that is remembered."""

    def level(self, priority: int) -> int:
        """The level of requests of a priority: the default one where there is none such."""
        settings = self.settings
        within = 1 <= priority <= settings.priority_levels
        return priority if within else settings.default_priority_level

    async def classify(
        self, rows: Rows, *, deadline: float, level: int = 1
    ) -> list[Item[Rows, Scores]]:
        """Run images [N, H, W, C] in as many batches as they need.

        Returns: items whose results, in order, are probabilities [n, K] of n images each.
        Raises: DeadlineExceeded, ModelFailure.
        """
        count, most = len(rows), self.max_batch_size
        submit = self._batcher.submit
        if count <= most:
            return [await submit(rows, size=count, deadline=deadline, level=level)]
        tasks = [
            asyncio.create_task(submit(part, size=len(part), deadline=deadline, level=level))
            for part in (rows[start : start + most] for start in range(0, count, most))
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    @property
    def waiting(self) -> int:
        """Images that wait for a batch."""
        return self._batcher.depth

    @property
    def busy(self) -> bool:
        """Whether a batch runs or waits."""
        return any(slot.busy for slot in self._slots) or self._batcher.depth > 0

    def hangs(self, limit: float) -> bool:
        """Whether a batch has been computing for more than `limit` seconds."""
        return any(slot.hangs(limit) for slot in self._slots)

    def flush(self) -> None:
        """Let nothing wait for company any more: the service is draining."""
        self._batcher.flush()

    async def retire(self) -> None:
        """Close it when its last lease has ended; there must be no new ones."""
        await self.leases.ended()
        await self.close()
        if self.answers is not None:
            await self.answers.forget()

    async def close(self) -> None:
        """Stop the batcher and let the sessions go."""
        await self._batcher.close()
        for slot in self._slots:
            slot.close()
        # Whoever still holds this must not hold the memory of the sessions.
        self._slots, self._free_slots = [], []

    async def _run_batch(self, batch: list[Rows]) -> Sequence[Scores | Exception]:
        slot = self._free_slots.pop()  # the batcher hands over no more batches than there are
        try:
            with self._sharing(slot):
                results = await slot.run(batch, len(self.labels))
        finally:
            self._free_slots.append(slot)
        if self.metrics.drift is not None:
            self.metrics.drift.observe(results)
        return results

    @contextmanager
    def _sharing(self, slot: Slot) -> Iterator[None]:
        """Count what a batch takes of the processors.

        In the background it leaves them to others; on a GPU it computes on none. The other threads
        of a network are taken to work as much as the first, which those of a small one do not.
        """
        if self.background:
            yield
            return
        name = self.manifest.name
        threads = self.settings.compute_threads if self.provider == CPU else 0
        try:
            with self._shares.computing(name, threads, session=slot):
                yield
        finally:
            self._shares.charge(name, slot.spent() * max(1, threads))


def run_rows(session: Session, batch: list[Rows], classes: int) -> list[Scores | Exception]:
    """Run several requests' images as one batch and cut the answer apart again.

    A request whose rows are not finite numbers gets an error; its neighbours do not.
    """
    rows = run_halved(session, batch)
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


def run_halved(session: Session, parts: list[Rows]) -> Scores:
    """Classify images [N, H, W, C] at once, or in halves where the device's memory is short.

    Raises: OutOfMemory where it holds not even one; ModelFailure.
    """
    try:
        return session.run(*parts)
    except OutOfMemory:
        images = np.concatenate(parts)
        if len(images) == 1:
            raise
        log.warning("out_of_memory", images=len(images))
        halves = np.split(images, [len(images) // 2])
        return np.concatenate([run_halved(session, [half]) for half in halves])
