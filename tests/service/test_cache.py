"""The cache of answers, with plain functions for networks: answers are in upper case."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable, Coroutine, Sequence
from time import monotonic
from typing import Any

import pytest

from service.cache import ON_LOOP_BYTES, Answers, CacheCounts, Store
from service.errors import DeadlineExceeded, ModelFailure

LARGE = 2**20


def scenario(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run an async test in a loop of its own."""

    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 20))

    return run


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


class Model:
    """Answers in upper case; gated, one request for each release; remembers what it computed."""

    def __init__(self, store: Store, *, gated: bool = False) -> None:
        self.counts = CacheCounts()
        self.answers = Answers(store, self.counts)
        self.computed: list[str] = []
        self.gate = asyncio.Semaphore(0 if gated else 1_000_000)

    async def ask(self, *words: str, kind: bytes = b"f", **options: Any) -> list[str]:
        async def compute(wanted: list[int]) -> Sequence[bytes]:
            self.computed.append(" ".join(words[index] for index in wanted))
            await self.gate.acquire()
            if "poison" in words:
                raise ModelFailure("poisoned")
            return [words[index].upper().encode() for index in wanted]

        contents = [(kind, word.encode()) for word in words]
        recalled = await self.answers.get(contents, compute, **options)
        return [answer.decode() for answer in recalled.answers]

    def start(self, *words: str, **options: Any) -> asyncio.Task[list[str]]:
        return asyncio.create_task(self.ask(*words, **options))

    def counted(self) -> tuple[int, int, int]:
        return self.counts.hits, self.counts.coalesced, self.counts.misses


@scenario
async def test_only_what_is_new_is_computed() -> None:
    model = Model(Store(LARGE))
    assert await model.ask("a", "b") == ["A", "B"]
    assert await model.ask("c", "b", "d", "a", "c") == ["C", "B", "D", "A", "C"]
    assert await model.ask("a", "a") == ["A", "A"]
    assert model.computed == ["a b", "c d"]
    assert model.counted() == (4, 1, 4)


@scenario
async def test_models_and_kinds_of_content_are_kept_apart() -> None:
    store = Store(LARGE)
    one, other = Model(store), Model(store)
    await one.ask("a")
    await other.ask("a")
    await one.ask("a", kind=b"p")
    assert (one.computed, other.computed) == (["a", "a"], ["a"])


@scenario
async def test_long_contents_are_told_apart_too() -> None:
    model = Model(Store(2**24))
    long = "a" * ON_LOOP_BYTES
    assert await model.ask(long + "b", long + "c") == [long.upper() + "B", long.upper() + "C"]
    await model.ask(long + "c")
    assert len(model.computed) == 1


@scenario
async def test_a_gone_model_is_forgotten_and_no_other() -> None:
    store = Store(LARGE)
    one, other = Model(store), Model(store)
    for number in range(1500):
        await one.ask(f"{number}")
    await other.ask("a")
    await one.answers.forget()
    assert len(store) == 1
    await other.ask("a")
    assert other.computed == ["a"]


@scenario
async def test_the_bound_holds_and_what_was_used_last_stays() -> None:
    store = Store(10_000)
    model = Model(store)
    await model.ask("dear")
    for number in range(1000):
        await model.ask(f"{number}", "dear")
        assert store.size <= 10_000
    assert 20 < len(store) < 50
    await model.ask("dear", "999")
    assert len(model.computed) == 1001
    await model.ask("0")
    assert len(model.computed) == 1002
    kept = len(store)
    await model.ask("x" * 10_000)  # larger than all there is: not at the cost of the others
    assert len(store) == kept


@pytest.mark.parametrize("classes", [10, 1000])
def test_the_bound_is_of_real_memory(classes: int) -> None:
    async def fill(most: int) -> int:
        store = Store(most)
        before = tracemalloc.get_traced_memory()[0]
        for number in range(2 * most // (4 * classes + 200)):
            store.put(number.to_bytes(20, "little"), bytes(4 * classes))
        return tracemalloc.get_traced_memory()[0] - before

    tracemalloc.start()
    try:
        assert asyncio.run(fill(2**20)) <= 1.1 * 2**20
    finally:
        tracemalloc.stop()


@scenario
async def test_the_same_image_in_flight_is_computed_once() -> None:
    model = Model(Store(LARGE), gated=True)
    tasks = [model.start("a"), model.start("b", "a"), model.start("a")]
    await settle()
    assert model.computed == ["a", "b"]
    model.gate.release()
    model.gate.release()
    assert await asyncio.gather(*tasks) == [["A"], ["B", "A"], ["A"]]
    assert model.counted() == (0, 2, 2)


@scenario
async def test_requests_that_wait_for_each_other_both_end() -> None:
    model = Model(Store(LARGE), gated=True)
    tasks = [model.start("a"), model.start("b"), model.start("a", "c", "b"), model.start("c", "a")]
    await settle()
    for _ in model.computed:
        model.gate.release()
    assert await asyncio.gather(*tasks) == [["A"], ["B"], ["A", "C", "B"], ["C", "A"]]
    assert model.computed == ["a", "b", "c"]


@scenario
async def test_the_next_takes_over_from_a_cancelled_one() -> None:
    model = Model(Store(LARGE), gated=True)
    first, *others = [model.start("a") for _ in range(4)]
    await settle()
    first.cancel()
    await settle()
    assert model.computed == ["a", "a"]
    model.gate.release()
    assert await asyncio.gather(*others) == [["A"]] * 3


@scenario
async def test_one_that_leaves_does_not_disturb_the_one_it_waits_for() -> None:
    model = Model(Store(LARGE), gated=True)
    first, second = model.start("a"), model.start("a")
    await settle()
    second.cancel()
    await settle()
    model.gate.release()
    assert await first == ["A"]
    assert second.cancelled()


@scenario
async def test_each_waits_for_its_own_deadline() -> None:
    model = Model(Store(LARGE), gated=True)
    patient = model.start("a")
    await settle()
    with pytest.raises(DeadlineExceeded):
        await model.ask("a", deadline=monotonic() + 0.01)
    model.gate.release()
    assert await patient == ["A"]


@scenario
async def test_what_shared_a_request_with_a_bad_image_is_answered() -> None:
    model = Model(Store(LARGE), gated=True)
    bad, good = model.start("poison", "a"), model.start("a")
    await settle()
    model.gate.release()
    model.gate.release()
    with pytest.raises(ModelFailure):
        await bad
    assert await good == ["A"]


@scenario
async def test_a_bad_image_fails_all_who_ask_and_few_one_after_the_other() -> None:
    model = Model(Store(LARGE), gated=True)
    tasks = [model.start("poison") for _ in range(10)]
    for computing, ended in ((1, 1), (2, 1), (10, 9)):
        await settle()
        assert len(model.computed) == computing
        for _ in range(ended):
            model.gate.release()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(answer) for answer in answers} == {ModelFailure}
    assert await model.ask("a") == ["A"]
