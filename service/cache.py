"""Answers to images that were asked about before, and those that are just being computed.

It knows neither images nor networks: what is asked about is bytes, and so are the answers. `Store`
keeps those of all models, bounded in bytes; `Answers` is one model's part of it.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256
from itertools import count
from time import monotonic
from typing import NamedTuple

from service.errors import DeadlineExceeded
from service.worker import Worker

ENTRY_BYTES = 200
"""What an answer takes beside its own bytes and its key's, by tracemalloc: objects, a place."""
PREFIX_BYTES = 4
DIGEST_BYTES = 16
ON_LOOP_BYTES = 2**16
"""Up to here hashing takes less (35 us) than having a thread do it."""
DROPPED_AT_ONCE = 1000
FOLLOWED = 2
"""How often a request waits for what others compute before it computes by itself."""

Content = tuple[bytes, bytes | memoryview]
"""Of what kind it is, and its bytes: the same ones may be a file, or pixels."""
Compute = Callable[[list[int]], Awaitable[Sequence[bytes]]]


class Recalled(NamedTuple):
    """What the cache had, or got."""

    answers: list[bytes]
    waited: float
    """Seconds spent waiting for other requests."""


class CacheCounts:
    """What one model's images have met."""

    __slots__ = ("coalesced", "hit_seconds", "hits", "miss_seconds", "misses")

    def __init__(self) -> None:
        self.hits = 0
        self.coalesced = 0
        """Images that another request, or the same, was computing."""
        self.misses = 0
        self.hit_seconds = 0.0
        """Spent looking up the hits."""
        self.miss_seconds = 0.0
        """Spent looking up all others, in vain."""

    def results(self) -> dict[str, int]:
        """How many images met what."""
        return {"hit": self.hits, "coalesced": self.coalesced, "miss": self.misses}

    def look_up(self, *, hits: int, coalesced: int, misses: int, seconds: float) -> None:
        """Count the images of a request."""
        self.hits += hits
        self.coalesced += coalesced
        self.misses += misses
        images = hits + coalesced + misses
        self.hit_seconds += seconds * hits / images
        self.miss_seconds += seconds * (images - hits) / images


class Store:
    """The answers used last, by key, that take `most` bytes together at most.

    Made within a running event loop.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._answers: OrderedDict[bytes, bytes] = OrderedDict()
        self._prefixes = count()
        self.size = 0
        """Bytes that the answers take."""
        self.hasher = Worker("hash")

    def __len__(self) -> int:
        return len(self._answers)

    def amount(self) -> tuple[int, int]:
        """How many answers there are, and the bytes that they take."""
        return len(self._answers), self.size

    def prefix(self) -> bytes:
        """What no other model's keys begin with."""
        return next(self._prefixes).to_bytes(PREFIX_BYTES, "little")

    def get(self, key: bytes) -> bytes | None:
        """An answer, which is now the one used last."""
        answer = self._answers.get(key)
        if answer is not None:
            self._answers.move_to_end(key)
        return answer

    def put(self, key: bytes, answer: bytes) -> None:
        """Keep an answer, if need be instead of those not used for longest."""
        if _size(key, answer) > self._most:
            return
        self._remove(key)
        self._answers[key] = answer
        self.size += _size(key, answer)
        while self.size > self._most:
            self._remove(next(iter(self._answers)))

    async def drop(self, prefix: bytes) -> None:
        """Forget a model's answers, some at a time: others' requests go on."""
        for number, key in enumerate(list(self._answers)):
            if key.startswith(prefix):
                self._remove(key)
            if number % DROPPED_AT_ONCE == 0:
                await asyncio.sleep(0)

    def close(self) -> None:
        """Let the thread end."""
        self.hasher.close()

    def _remove(self, key: bytes) -> None:
        answer = self._answers.pop(key, None)
        if answer is not None:
            self.size -= _size(key, answer)


class Answers:
    """What one model has answered, and what it is computing."""

    def __init__(self, store: Store, counts: CacheCounts) -> None:
        self._store = store
        self._counts = counts
        self._prefix = store.prefix()
        # A secret, so that nobody can search for two images of the same key, and have the one be
        # answered with what the other is.
        self._hash = sha256(os.urandom(DIGEST_BYTES))
        self._flights: dict[bytes, asyncio.Future[bytes | None]] = {}

    async def get(
        self, contents: Sequence[Content], compute: Compute, *, deadline: float = math.inf
    ) -> Recalled:
        """The answer to each content: remembered, waited for, or computed.

        `compute` gets the indices of those that are to be computed. Whoever waits for another
        request, which then fails or is cancelled, takes its place.

        Raises: DeadlineExceeded, what `compute` raises.
        """
        start = monotonic()
        keys = await self._keys(contents)
        found: dict[bytes, bytes] = {}
        waited = 0.0
        for turn in range(FOLLOWED + 1):
            lead, follow = self._look_up(keys, found, may_follow=turn < FOLLOWED)
            if turn == 0:
                self._count(keys, found, len(lead), monotonic() - start)
            if lead:
                found |= await self._lead(lead, compute)
            if not follow:
                break
            begin = monotonic()
            found |= await self._follow(follow, deadline)
            waited += monotonic() - begin
        return Recalled([found[key] for key in keys], waited)

    async def forget(self) -> None:
        """Drop all that is remembered: the model has gone."""
        await self._store.drop(self._prefix)

    def _look_up(
        self, keys: Sequence[bytes], found: dict[bytes, bytes], *, may_follow: bool
    ) -> tuple[dict[bytes, int], dict[bytes, asyncio.Future[bytes | None]]]:
        """Add to `found`; returns what is to be computed, with its index, and what already is."""
        lead: dict[bytes, int] = {}
        follow = {}
        for index, key in enumerate(keys):
            if key in found or key in lead:
                continue
            if (answer := self._store.get(key)) is not None:
                found[key] = answer
            elif may_follow and (flight := self._flights.get(key)) is not None:
                follow[key] = flight
            else:
                lead[key] = index
        return lead, follow

    def _count(
        self, keys: Sequence[bytes], found: dict[bytes, bytes], misses: int, seconds: float
    ) -> None:
        hits = sum(key in found for key in keys)
        coalesced = len(keys) - hits - misses
        self._counts.look_up(hits=hits, coalesced=coalesced, misses=misses, seconds=seconds)

    async def _lead(self, lead: dict[bytes, int], compute: Compute) -> dict[bytes, bytes]:
        loop = asyncio.get_running_loop()
        flights = {key: loop.create_future() for key in lead if key not in self._flights}
        self._flights |= flights
        found: dict[bytes, bytes] = {}
        try:
            found |= zip(lead, await compute(list(lead.values())), strict=True)
            for key, answer in found.items():
                self._store.put(key, answer)
            return found
        finally:
            for key, flight in flights.items():
                del self._flights[key]
                flight.set_result(found.get(key))

    async def _follow(
        self, follow: dict[bytes, asyncio.Future[bytes | None]], deadline: float
    ) -> dict[bytes, bytes]:
        """What others have computed; what they could not is missing."""
        patience = None if deadline == math.inf else max(0.0, deadline - monotonic())
        _, pending = await asyncio.wait(follow.values(), timeout=patience)
        if pending:
            raise DeadlineExceeded("the deadline passed while another request ran the same image")
        answers = ((key, flight.result()) for key, flight in follow.items())
        return {key: answer for key, answer in answers if answer is not None}

    async def _keys(self, contents: Sequence[Content]) -> list[bytes]:
        if sum(len(data) for _, data in contents) <= ON_LOOP_BYTES:
            return self._hashed(contents)
        return await self._store.hasher.run(self._hashed, contents)

    def _hashed(self, contents: Sequence[Content]) -> list[bytes]:
        keys = []
        for kind, data in contents:
            one = self._hash.copy()
            one.update(kind)
            one.update(data)
            keys.append(self._prefix + one.digest()[:DIGEST_BYTES])
        return keys


def _size(key: bytes, answer: bytes) -> int:
    return ENTRY_BYTES + len(key) + len(answer)
