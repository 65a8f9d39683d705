"""The batcher, with plain values for images and plain functions for networks."""

from __future__ import annotations

import asyncio
import gc
import math
import random
import weakref
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

import pytest

from service.batching import SHORT_SECONDS, Batcher
from service.errors import DeadlineExceeded, ModelFailure, NotServing
from tests.service.clock import Clock


class Network:
    """Doubles numbers; gated, it ends one batch for each release; remembers its batches."""

    def __init__(self, *, gated: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.entered = asyncio.Event()
        self.gate = asyncio.Semaphore(0 if gated else 1_000_000)

    async def __call__(self, batch: list[int]) -> Sequence[int | Exception]:
        self.batches.append(batch)
        self.entered.set()
        await self.gate.acquire()
        return [2 * value for value in batch]


def scenario(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run an async test in a loop of its own."""

    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 20))

    return run


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


def release(network: Network) -> None:
    """Let this and every later batch end."""
    for _ in range(100):
        network.gate.release()


async def busy(network: Network, batcher: Batcher[int, int]) -> asyncio.Task[Any]:
    """Occupy the worker with a batch that ends when the gate opens."""
    first = asyncio.create_task(batcher.submit(0))
    await network.entered.wait()
    return first


async def closed() -> tuple[Batcher[int, int], asyncio.Task[Any], asyncio.Task[Any]]:
    """A batcher just closed, a call that ran and one that waited: neither knows of it yet."""
    network = Network(gated=True)
    batcher = Batcher(network, max_batch_size=1, max_delay=0)
    first = await busy(network, batcher)
    waiting = asyncio.create_task(batcher.submit(1))
    await settle()
    await batcher.close()
    return batcher, first, waiting


@scenario
async def test_each_item_gets_its_own_result() -> None:
    batcher = Batcher(Network(), max_batch_size=4, max_delay=0)
    items = await asyncio.gather(*(batcher.submit(value) for value in range(10)))
    assert [item.result.result() for item in items] == [2 * value for value in range(10)]
    await batcher.close()


@scenario
async def test_an_idle_batcher_holds_nothing() -> None:
    class Large:
        pass

    async def run(batch: list[Large]) -> list[int]:
        return [1] * len(batch)

    batcher, payload, freed = Batcher(run, max_batch_size=4, max_delay=0), Large(), asyncio.Event()
    weakref.finalize(payload, freed.set)
    await batcher.submit(payload)
    del payload
    await freed.wait()
    await batcher.close()


@scenario
async def test_what_waits_while_the_worker_is_busy_becomes_one_batch() -> None:
    network = Network(gated=True)
    batcher = Batcher(network, max_batch_size=8, max_delay=0)
    first = await busy(network, batcher)
    rest = [asyncio.create_task(batcher.submit(value)) for value in (1, 2, 3)]
    await settle()
    release(network)
    await asyncio.gather(first, *rest)
    assert network.batches == [[0], [1, 2, 3]]
    await batcher.close()


@scenario
async def test_as_many_batches_as_told_run_at_once() -> None:
    network = Network(gated=True)
    batcher = Batcher(network, max_batch_size=2, max_delay=0, concurrency=2)
    tasks = [asyncio.create_task(batcher.submit(value)) for value in range(6)]
    await settle()
    assert network.batches == [[0, 1], [2, 3]]
    release(network)
    assert [item.result.result() for item in await asyncio.gather(*tasks)] == [0, 2, 4, 6, 8, 10]
    await batcher.close()


@scenario
async def test_a_full_batch_is_at_hand_when_the_one_before_it_ends() -> None:
    clock, network = Clock(), Network(gated=True)
    batcher = Batcher(network, max_batch_size=2, max_delay=0, ahead=True, clock=clock)
    tasks = [asyncio.create_task(batcher.submit(value)) for value in range(7)]
    await settle()
    assert network.batches == [[0, 1]]  # how long they take is not known yet
    network.gate.release()
    await settle()
    assert network.batches == [[0, 1], [2, 3], [4, 5]]
    assert batcher.depth == 3
    clock.now += 0.001
    network.gate.release()
    await settle()
    assert network.batches == [[0, 1], [2, 3], [4, 5]]
    assert batcher.depth == 1
    clock.now += 0.001
    release(network)
    items = await asyncio.gather(*tasks)
    assert network.batches[3:] == [[6]]
    # The time in which it was at hand counts as waiting.
    assert [item.closed for item in items[2:6]] == [100.0, 100.0, 100.001, 100.001]
    await batcher.close()


@scenario
async def test_what_does_not_fill_a_batch_waits_for_the_worker() -> None:
    network = Network(gated=True)
    batcher = Batcher(network, max_batch_size=4, max_delay=0, ahead=True)
    first = await busy(network, batcher)
    rest = [asyncio.create_task(batcher.submit(value)) for value in (1, 2)]
    await settle()
    assert network.batches == [[0]]
    release(network)
    await asyncio.gather(first, *rest)
    assert network.batches == [[0], [1, 2]]
    await batcher.close()


@scenario
async def test_while_batches_are_long_none_closes_ahead() -> None:
    clock, network = Clock(), Network(gated=True)
    batcher = Batcher(network, max_batch_size=2, max_delay=0, ahead=True, clock=clock)
    first = await busy(network, batcher)  # half full: a full one would take longer
    clock.now += 0.7 * SHORT_SECONDS
    network.gate.release()
    await first
    tasks = [asyncio.create_task(batcher.submit(value)) for value in range(4)]
    await settle()
    assert network.batches == [[0], [0, 1]]
    release(network)
    await asyncio.gather(*tasks)
    await batcher.close()


@scenario
async def test_closing_gives_up_every_batch_that_runs() -> None:
    network = Network(gated=True)
    batcher = Batcher(network, max_batch_size=1, max_delay=0, concurrency=2)
    tasks = [asyncio.create_task(batcher.submit(value)) for value in range(3)]
    await settle()
    await batcher.close()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [NotServing] * 3


@scenario
async def test_who_leaves_as_it_closes_is_not_counted_twice() -> None:
    batcher, first, waiting = await closed()
    waiting.cancel()  # it has its error, and has not seen it yet
    await asyncio.gather(first, waiting, return_exceptions=True)
    assert batcher.depth == 0


@scenario
async def test_sizes_fill_a_batch_and_never_overfill_it() -> None:
    network = Network(gated=True)
    sizes: list[int] = []
    batcher = Batcher(network, max_batch_size=4, max_delay=0, on_batch=sizes.append)
    first = await busy(network, batcher)
    rest = [asyncio.create_task(batcher.submit(size, size=size)) for size in (3, 2, 2, 4)]
    await settle()
    assert batcher.depth == 11
    release(network)
    await asyncio.gather(first, *rest)
    assert sizes == [1, 3, 4, 4]
    await batcher.close()


@scenario
async def test_a_full_batch_does_not_wait_for_the_delay() -> None:
    batcher = Batcher(Network(), max_batch_size=2, max_delay=3600)
    await asyncio.gather(batcher.submit(1), batcher.submit(2))
    await batcher.close()


@scenario
async def test_the_wait_is_measured_from_the_oldest_arrival() -> None:
    network, now = Network(gated=True), [0.0]
    batcher = Batcher(network, max_batch_size=2, max_delay=3600, clock=lambda: now[0])
    full = [asyncio.create_task(batcher.submit(value)) for value in (1, 2)]
    await network.entered.wait()
    late = asyncio.create_task(batcher.submit(3))
    await settle()
    now[0] = 3600.0  # it has waited long enough while the worker was busy
    release(network)
    item = await asyncio.wait_for(late, 5)
    assert item.closed - item.enqueued == 3600.0
    await asyncio.gather(*full)
    await batcher.close()


@scenario
async def test_a_deadline_ends_the_wait_of_the_whole_batch_in_time() -> None:
    network, now = Network(), [0.0]
    batcher = Batcher(network, max_batch_size=4, max_delay=3600, clock=lambda: now[0])
    first = asyncio.create_task(batcher.submit(1))
    await settle()
    urgent = asyncio.create_task(batcher.submit(2, deadline=0.1))
    await settle()
    assert not network.batches  # there is time to wait for others, to a certain extent
    now[0] = 0.06
    await asyncio.gather(first, urgent)
    assert network.batches == [[1, 2]]
    await batcher.close()


@scenario
async def test_a_deadline_leaves_the_time_that_batches_take() -> None:
    network, now = Network(gated=True), [0.0]
    batcher = Batcher(network, max_batch_size=2, max_delay=3600, clock=lambda: now[0])
    full = [asyncio.create_task(batcher.submit(value)) for value in (1, 2)]
    await network.entered.wait()
    now[0] = 8.0
    release(network)
    await asyncio.gather(*full)
    await batcher.submit(3, deadline=16.0)
    assert network.batches == [[1, 2], [3]]
    await batcher.close()


@scenario
async def test_a_batch_takes_higher_levels_first_and_each_in_its_order() -> None:
    network = Network(gated=True)
    batcher = Batcher(network, max_batch_size=4, max_delay=0, levels=3)
    first = await busy(network, batcher)
    rest = [
        asyncio.create_task(batcher.submit(value, level=level))
        for value, level in ((31, 3), (21, 2), (11, 1), (32, 3), (12, 1), (22, 2))
    ]
    await settle()
    release(network)
    await asyncio.gather(first, *rest)
    assert network.batches == [[0], [11, 12, 21, 22], [31, 32]]
    await batcher.close()


@scenario
async def test_what_a_higher_level_leaves_no_room_for_is_not_overtaken() -> None:
    network = Network(gated=True)
    batcher = Batcher(network, max_batch_size=4, max_delay=0, levels=2)
    first = await busy(network, batcher)
    rest = [
        asyncio.create_task(batcher.submit(value, size=size, level=level))
        for value, size, level in ((20, 1, 2), (10, 3, 1), (11, 2, 1))
    ]
    await settle()
    release(network)
    await asyncio.gather(first, *rest)
    assert network.batches == [[0], [10], [11, 20]]
    await batcher.close()


@scenario
async def test_the_wait_of_a_lower_level_counts_too() -> None:
    network, now = Network(), [0.0]
    batcher = Batcher(network, max_batch_size=4, max_delay=0.05, levels=2, clock=lambda: now[0])
    low = asyncio.create_task(batcher.submit(2, level=2))
    await settle()
    now[0] = 0.05
    await asyncio.gather(low, batcher.submit(1))
    assert network.batches == [[1, 2]]
    await batcher.close()


@scenario
async def test_who_leaves_a_level_whose_turn_does_not_come_is_forgotten() -> None:
    network = Network(gated=True)
    batcher: Batcher[Any, Any] = Batcher(network, max_batch_size=1, max_delay=0, levels=2)
    first = await busy(network, batcher)
    high = asyncio.create_task(batcher.submit(1))
    payload = Network()  # anything that a weak reference can point to
    forgotten = weakref.ref(payload)
    low = asyncio.create_task(batcher.submit(payload, level=2))
    await settle()
    low.cancel()
    await asyncio.wait([low])
    del payload, low
    gc.collect()
    assert forgotten() is None
    release(network)
    await asyncio.gather(first, high)
    await batcher.close()


@scenario
async def test_a_batch_waits_for_those_on_their_way() -> None:
    network, expected = Network(), 1
    batcher = Batcher(
        network, max_batch_size=4, max_delay=0, expected=lambda: expected, clock=lambda: 0.0
    )
    first = asyncio.create_task(batcher.submit(1))
    await settle()
    assert not network.batches
    expected = 0
    await asyncio.gather(first, batcher.submit(2))
    assert network.batches == [[1, 2]]
    await batcher.close()


@scenario
async def test_it_does_not_wait_long_for_those_who_do_not_come() -> None:
    network = Network()
    batcher = Batcher(network, max_batch_size=4, max_delay=0, expected=lambda: 1)
    await batcher.submit(1)
    assert network.batches == [[1]]
    await batcher.close()


@scenario
async def test_calls_that_have_reached_the_loop_join_the_batch() -> None:
    network = Network()
    batcher = Batcher(network, max_batch_size=4, max_delay=0)

    async def call(value: int, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        await batcher.submit(value)

    await asyncio.gather(call(1, 0), call(2, 1), call(3, 2))
    assert network.batches == [[1, 2, 3]]
    await batcher.close()


@scenario
async def test_flush_ends_the_wait_for_company() -> None:
    batcher = Batcher(Network(), max_batch_size=2, max_delay=3600)
    waiting = asyncio.create_task(batcher.submit(1))
    await settle()
    batcher.flush()
    assert (await waiting).result.result() == 2
    await batcher.close()


@scenario
async def test_who_has_left_costs_no_compute() -> None:
    network = Network(gated=True)
    batcher = Batcher(network, max_batch_size=8, max_delay=0)
    first = await busy(network, batcher)
    leaver, stayer = (asyncio.create_task(batcher.submit(value)) for value in (1, 2))
    await settle()
    leaver.cancel()
    await settle()
    assert batcher.depth == 1
    release(network)
    await asyncio.gather(first, stayer)
    assert network.batches == [[0], [2]]
    await batcher.close()


@scenario
async def test_a_passed_deadline_costs_no_compute() -> None:
    network = Network(gated=True)
    batcher = Batcher(network, max_batch_size=8, max_delay=0)
    first = await busy(network, batcher)
    late = asyncio.create_task(batcher.submit(1, deadline=monotonic()))
    await settle()
    release(network)
    with pytest.raises(DeadlineExceeded):
        await late
    await first
    assert (network.batches, batcher.depth) == ([[0]], 0)
    await batcher.close()


@scenario
async def test_leaving_while_the_batch_runs_disturbs_nobody() -> None:
    network = Network(gated=True)
    batcher = Batcher(network, max_batch_size=8, max_delay=0)
    first = await busy(network, batcher)
    riders = [asyncio.create_task(batcher.submit(value)) for value in (1, 2, 3, 4)]
    await settle()
    network.gate.release()
    await first
    await settle()
    assert network.batches[-1] == [1, 2, 3, 4]  # it runs, and has not ended
    riders[1].cancel()
    await settle()
    network.gate.release()
    results = await asyncio.gather(*riders, return_exceptions=True)
    assert isinstance(results.pop(1), asyncio.CancelledError)
    assert [item.result.result() for item in results] == [2, 6, 8]
    await batcher.close()


@scenario
async def test_a_result_that_is_an_error_fails_its_own_item_only() -> None:
    async def run(batch: list[int]) -> list[int | Exception]:
        return [ModelFailure("NaN") if value < 0 else value for value in batch]

    batcher = Batcher(run, max_batch_size=3, max_delay=3600)
    results = await asyncio.gather(
        *(batcher.submit(value) for value in (1, -1, 2)), return_exceptions=True
    )
    assert isinstance(results[1], ModelFailure)
    assert [results[0].result.result(), results[2].result.result()] == [1, 2]
    await batcher.close()


@scenario
async def test_a_wrong_number_of_results_fails_the_batch_and_the_next_one_runs() -> None:
    async def run(batch: list[int]) -> list[int | Exception]:
        return batch[1:] if batch[0] < 0 else list(batch)

    batcher = Batcher(run, max_batch_size=4, max_delay=0)
    with pytest.raises(ModelFailure) as failure:
        await batcher.submit(-1)
    assert "0 results for 1 items" in failure.value.detail
    assert (await batcher.submit(5)).result.result() == 5
    await batcher.close()


@scenario
async def test_an_exception_of_the_network_reaches_every_rider() -> None:
    async def run(batch: list[int]) -> list[int | Exception]:
        raise ValueError("broken")

    batcher = Batcher(run, max_batch_size=2, max_delay=3600)
    results = await asyncio.gather(*(batcher.submit(k) for k in (1, 2)), return_exceptions=True)
    assert [type(result) for result in results] == [ValueError, ValueError]
    await batcher.close()


@scenario
async def test_close_leaves_nobody_waiting() -> None:
    batcher, first, waiting = await closed()
    results = await asyncio.gather(first, waiting, return_exceptions=True)
    assert [type(result) for result in results] == [NotServing, NotServing]
    with pytest.raises(NotServing):
        await batcher.submit(2)


@scenario
async def test_times_are_in_order_and_finite() -> None:
    batcher = Batcher(Network(), max_batch_size=1, max_delay=0)
    item = await batcher.submit(1, deadline=math.inf)
    assert item.enqueued <= item.closed <= item.finished <= monotonic()
    await batcher.close()


@scenario
async def test_an_item_that_can_never_fit_is_a_bug_of_the_caller() -> None:
    batcher = Batcher(Network(), max_batch_size=2, max_delay=0)
    with pytest.raises(ValueError, match="does not fit"):
        await batcher.submit(1, size=3)
    await batcher.close()


@pytest.mark.parametrize("seed", range(8))
def test_whatever_callers_do_each_gets_an_end_and_nothing_stays(seed: int) -> None:
    chance = random.Random(seed)

    async def run(batch: list[int]) -> list[int | Exception]:
        await asyncio.sleep(chance.choice((0, 0.003)))
        return [ModelFailure("NaN") if value % 20 == 0 else value for value in batch]

    async def call(batcher: Batcher[int, int], value: int) -> None:
        await asyncio.sleep(chance.random() / 20)
        size, level = chance.randint(1, 4), chance.randint(1, 3)
        deadline = chance.choice((math.inf, monotonic() + chance.random() / 30))
        with suppress(TimeoutError, DeadlineExceeded, ModelFailure, NotServing):
            async with asyncio.timeout(chance.choice((None, chance.random() / 30))):
                item = await batcher.submit(value, size=size, deadline=deadline, level=level)
                assert item.result.result() == value

    async def load() -> None:
        delay, workers = chance.choice((0, 0.01)), chance.randint(1, 2)
        ahead = workers == 1 and seed % 2 == 0
        batcher = Batcher(
            run, max_batch_size=4, max_delay=delay, levels=3, concurrency=workers, ahead=ahead
        )
        calls = asyncio.gather(*(call(batcher, value) for value in range(200)))
        if seed % 4 == 0:  # while some wait and some have not come
            await asyncio.sleep(0.02)
            await batcher.close()
        await calls
        assert batcher.depth == 0
        await batcher.close()

    scenario(load)()
