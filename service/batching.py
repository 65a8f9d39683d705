"""Dynamic batching of anything: it knows neither images nor networks.

An `Item` waits in the `Queue` of its `Batcher`. A batch closes when a worker is free and it is
full, or its oldest item has waited `max_delay` and no other is on its way, or an item would
otherwise miss its deadline; what joins it is decided at that moment, so load itself makes batches
larger. Where batches are short, a full one closes a little earlier, to be at hand at that moment.
Whoever has left by then costs no compute. Each item is resolved on its own.

Items have a level, 1 being the highest. A batch is filled from the highest first, so a lower one
runs only with what the higher ones leave, and waits for as long as they leave nothing.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Generic, TypeVar

from service.errors import DeadlineExceeded, ModelFailure, NotServing

T = TypeVar("T")
R = TypeVar("R")

COMPANY_SECONDS = 0.002
"""How long an item waits at most for others that are on their way."""
TURNS = 3
"""Turns of the event loop in which a call that has reached it becomes an item."""
FORGETTING = 0.9
"""By how much less each batch remembers of how long earlier ones took."""
SHORT_SECONDS = 0.01
"""How long batches take at most that may close ahead: one that is closed lets no other go first."""

CLOSED = "the model is being taken out of service"

Run = Callable[[list[T]], Awaitable[Sequence[R | Exception]]]


# No dataclasses: mypyc knows none that are generic.


class Item(Generic[T, R]):
    """One payload on its way through a batch; times are of the monotonic clock, in seconds."""

    __slots__ = ("closed", "deadline", "enqueued", "finished", "payload", "result", "size")

    def __init__(
        self, payload: T, size: int, deadline: float, result: asyncio.Future[R], enqueued: float
    ) -> None:
        self.payload, self.size = payload, size
        self.deadline, self.result = deadline, result
        self.enqueued = enqueued
        self.closed = 0.0
        """When it left the queue: its batch closed, or its deadline had passed."""
        self.finished = 0.0
        """When its batch had run."""


class Batch(Generic[T, R]):
    """Items that run together; `size` is the sum of theirs."""

    __slots__ = ("items", "size")

    def __init__(self) -> None:
        self.items: list[Item[T, R]] = []
        self.size = 0


class Queue(Generic[T, R]):
    """Items by level, in each by arrival; `size` counts those that have not left."""

    def __init__(self, clock: Callable[[], float], levels: int) -> None:
        self._levels: list[deque[Item[T, R]]] = [deque() for _ in range(levels)]
        self._clock = clock
        self.size = 0

    def put(self, item: Item[T, R], level: int) -> None:
        """Append an item to its level."""
        self._levels[level - 1].append(item)
        self.size += item.size

    def leave(self, item: Item[T, R], level: int) -> None:
        """Take out an item whose caller is gone."""
        self.size -= item.size
        with suppress(ValueError):  # `_first` came upon it before
            self._levels[level - 1].remove(item)

    def oldest(self) -> Item[T, R] | None:
        """The item that has waited longest and is still wanted."""
        oldest = None
        for items in self._levels:
            first = self._first(items)
            if first and (oldest is None or first.enqueued < oldest.enqueued):
                oldest = first
        return oldest

    def tightest(self) -> float:
        """The least sum of when an item came and when it must be answered; infinity for none."""
        sums = (item.enqueued + item.deadline for items in self._levels for item in items)
        return min(sums, default=math.inf)

    def take(self, most: int) -> Batch[T, R]:
        """Remove the next items, as many as fit into a batch of `most`, the departed left out."""
        batch: Batch[T, R] = Batch()
        for items in self._levels:
            while item := self._first(items):
                if batch.size + item.size > most:
                    return batch
                items.popleft()
                self.size -= item.size
                batch.items.append(item)
                batch.size += item.size
        return batch

    def _first(self, items: deque[Item[T, R]]) -> Item[T, R] | None:
        """The first item of a level that is still wanted; those before it are dropped."""
        while items:
            item = items[0]
            if item.result.done():  # it is about to `leave`
                items.popleft()
            elif self._clock() >= item.deadline:
                items.popleft()
                self.size -= item.size
                item.closed = self._clock()
                item.result.set_exception(DeadlineExceeded("the deadline passed in the queue"))
            else:
                return item
        return None


class Batcher(Generic[T, R]):
    """Runs what is submitted in batches, `concurrency` of them at a time.

    Where there is one at a time, `run` may be called `ahead` of its end for another that is full.

    `run` gets the payloads of a batch and returns as many results in the same order; a result that
    is an exception fails its own item only. `expected` is the sum of the sizes of items that are
    being prepared and will be submitted soon.
    """

    def __init__(
        self,
        run: Run[T, R],
        *,
        max_batch_size: int,
        max_delay: float,
        levels: int = 1,
        concurrency: int = 1,
        ahead: bool = False,
        expected: Callable[[], int] = lambda: 0,
        on_batch: Callable[[int], None] = lambda size: None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._run = run
        self._max_batch_size = max_batch_size
        self._max_delay = max_delay
        self._expected = expected
        self._on_batch = on_batch
        self._clock = clock
        self._queue: Queue[T, R] = Queue(clock, levels)
        self._took = 0.0
        """How long batches take: the longest of late, in seconds."""
        self._full_took = math.inf
        """The same of full ones, as far as those show that are half full or more."""
        self._wanted = 1.0
        """The size of the queue for which a worker waits."""
        self._tight = -math.inf
        """What `Queue.tightest` must fall below for it to wait no longer."""
        self._arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once there is what a worker waits for."""
        self._closed = False
        self._concurrency = concurrency
        self._running = 0
        """Batches that are closed and not resolved."""
        self._at_hand = 0
        """Size of the one of them that waits for the worker."""
        self._finished = -math.inf
        """When the last one was."""
        self._closing = asyncio.Lock()
        workers = concurrency + ahead
        self._workers = [asyncio.create_task(self._work()) for _ in range(workers)]

    @property
    def depth(self) -> int:
        """Sum of the sizes of the items that wait."""
        return self._queue.size + self._at_hand

    async def submit(
        self, payload: T, *, size: int = 1, deadline: float = math.inf, level: int = 1
    ) -> Item[T, R]:
        """Wait until the payload has run; the item holds its result and its times.

        Cancelling this call takes the payload out of the queue.

        Raises: DeadlineExceeded, ModelFailure, NotServing, or what `run` returned for it.
        """
        if self._closed:
            raise NotServing(CLOSED)
        if not 1 <= size <= self._max_batch_size:
            raise ValueError(f"size {size} does not fit a batch of {self._max_batch_size}")
        result = asyncio.get_running_loop().create_future()
        item: Item[T, R] = Item(payload, size, deadline, result, enqueued=self._clock())
        self._queue.put(item, level)
        if self._queue.size >= self._wanted or item.enqueued + deadline < self._tight:
            self._wake()
        try:
            await item.result
        except asyncio.CancelledError:
            if not item.closed:
                self._queue.leave(item, level)
            raise
        return item

    def flush(self) -> None:
        """From now on close every batch as soon as a worker is free."""
        self._max_delay = 0.0
        self._wake()

    async def close(self) -> None:
        """Stop; whoever still waits, or comes later, gets NotServing."""
        self._closed = True
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        for item in self._queue.take(self._queue.size).items:
            item.closed = self._clock()
            item.result.set_exception(NotServing(CLOSED))

    async def _work(self) -> None:
        while True:
            # In a frame of its own: what it holds is large, and the next batch may be far.
            await self._one_batch()

    async def _one_batch(self) -> None:
        async with self._closing:
            batch = await self._next_batch()
            ahead = self._running == self._concurrency
            self._running += 1
            self._at_hand = batch.size if ahead else 0
        try:
            results = await self._run([item.payload for item in batch.items])
            if len(results) != len(batch.items):
                raise ModelFailure(f"{len(results)} results for {len(batch.items)} items")
        except asyncio.CancelledError:
            self._resolve(batch, [NotServing(CLOSED)] * len(batch.items))
            raise
        except Exception as error:
            results = [error] * len(batch.items)
        if ahead:
            for item in batch.items:
                item.closed = max(item.closed, self._finished)
        self._resolve(batch, results)
        self._running -= 1
        self._at_hand = 0
        if self._queue.size:
            self._wake()
        else:  # whoever waits for a free worker has one, and need not be woken to wait again
            self._wanted = 1.0

    async def _next_batch(self) -> Batch[T, R]:
        while True:
            oldest = self._queue.oldest()
            if oldest is None:
                await self._arrival(1, None)
                continue
            if self._running == self._concurrency:
                enough = self._max_batch_size if self._full_took < SHORT_SECONDS else math.inf
                if self._queue.size < enough:
                    await self._arrival(enough, None)
                    continue
            waited = self._clock() - oldest.enqueued
            if self._queue.size < self._max_batch_size:
                if waited < self._max_delay and await self._delay(self._max_delay - waited):
                    continue
                if waited < COMPANY_SECONDS and await self._company(COMPANY_SECONDS - waited):
                    continue
            if (batch := self._queue.take(self._max_batch_size)).items:
                break
        now = self._clock()
        for item in batch.items:
            item.closed = now
        self._on_batch(batch.size)
        return batch

    async def _delay(self, patience: float) -> bool:
        """Wait for a full batch, unless an item has no time for that; returns whether it did."""
        # Half of the time that an item can spare; the other half is for what nobody foresees.
        now = self._clock()
        due = min(now + patience, (self._queue.tightest() - self._took) / 2)
        if due <= now:
            return False
        await self._arrival(self._max_batch_size, due - now, tight=2 * due + self._took)
        return True

    async def _company(self, patience: float) -> bool:
        """Wait for items that are on their way; returns whether there are or were any."""
        size = self._queue.size
        if expected := self._expected():
            await self._arrival(min(size + expected, self._max_batch_size), patience)
            return True
        for _ in range(TURNS):
            await asyncio.sleep(0)
            if self._queue.size > size or self._expected():
                return True
        return False

    async def _arrival(
        self, wanted: float, patience: float | None, *, tight: float = -math.inf
    ) -> None:
        """Wait until items of the size `wanted` are there, or one that is as `tight`.

        At most `patience` seconds.
        """
        self._wanted, self._tight = wanted, tight
        loop = asyncio.get_running_loop()
        self._arrived = loop.create_future()
        timer = loop.call_later(patience, self._wake) if patience is not None else None
        try:
            await self._arrived
        finally:
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if not self._arrived.done():
            self._arrived.set_result(None)

    def _resolve(self, batch: Batch[T, R], results: Sequence[R | Exception]) -> None:
        """Give each item its own result; one that has left must not disturb the others."""
        now = self._clock()
        self._finished = now
        took = now - batch.items[0].closed
        self._took = max(took, FORGETTING * self._took)
        if batch.size * 2 >= self._max_batch_size:
            full = took * self._max_batch_size / batch.size
            before = self._full_took if self._full_took < math.inf else 0.0
            self._full_took = max(full, FORGETTING * before)
        for item, result in zip(batch.items, results, strict=True):
            item.finished = now
            if item.result.done():
                continue
            if isinstance(result, Exception):
                item.result.set_exception(result)
            else:
                item.result.set_result(result)
