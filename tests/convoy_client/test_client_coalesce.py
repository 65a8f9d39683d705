"""Concurrent calls of the asyncio client that share requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest

import convoy
from convoy.client.chunks import Slot
from convoy.client.coalesce import Coalescer
from convoy.client.plan import Planner
from convoy.client.steps import Plan, Prepare
from convoy.v1 import image_classifier_pb2 as pb
from tests.convoy_client.fake import FakeServer

NUMBERS = [str(number).encode() for number in range(100)]
LABELS = [f"class{number % 10}" for number in range(100)]

Use = Callable[[convoy.AsyncImageClient], Awaitable[Any]]


def run(server: FakeServer, use: Use, **options: Any) -> Any:
    async def main() -> Any:
        async with convoy.AsyncImageClient(server.target, **options) as client:
            return await use(client)

    return asyncio.run(main())


async def outcomes(client: convoy.AsyncImageClient, images: list[Any], **options: Any) -> list[Any]:
    calls = (client.classify(image, **options) for image in images)
    return await asyncio.gather(*calls, return_exceptions=True)


async def arrival(server: FakeServer) -> None:
    assert await asyncio.to_thread(server.arrived.acquire, timeout=20)


def test_concurrent_calls_share_requests(server):
    results = run(server, lambda client: outcomes(client, NUMBERS))
    assert [one.label for one in results] == LABELS
    assert sorted(server.sizes) == [4, 32, 32, 32]


def test_it_can_be_turned_off(server):
    results = run(
        server, lambda client: outcomes(client, NUMBERS), batching=convoy.Batching(coalesce=False)
    )
    assert [one.label for one in results] == LABELS
    assert server.sizes == [1] * 100


def test_lone_caller_sends_at_once(server):
    async def use(client: convoy.AsyncImageClient) -> None:
        for number in range(5):
            assert (await client.classify(b"%d" % number)).label == f"class{number}"

    run(server, use)
    assert server.sizes == [1] * 5


def test_bad_image_is_its_callers_alone(server, tmp_path):
    missing = tmp_path / "none.jpg"
    images = [b"1", b"bad", missing, b"nan", 3.5, b"2"]
    first, bad, no_file, nan, no_image, last = run(server, lambda c: outcomes(c, images))
    assert (first.label, last.label) == ("class1", "class2")
    assert (str(bad), bad.index) == ("images[0]: not an image", 0)
    assert (no_file.source, no_file.detail) == (str(missing), "No such file or directory")
    assert isinstance(nan, convoy.ServerError)
    assert isinstance(no_image, convoy.InvalidRequest)


def test_callers_of_different_top_k_do_not_mix(server):
    async def use(client: convoy.AsyncImageClient) -> list[Any]:
        return await asyncio.gather(*(client.classify(b"1", top_k=1 + n % 3) for n in range(12)))

    results = run(server, use)
    assert [len(one.classes) for one in results] == [1, 2, 3] * 4
    assert server.sizes == [4, 4, 4]


def test_shared_call_is_retried_for_all(server):
    server.refuse("UNAVAILABLE", times=2)
    results = run(server, lambda client: outcomes(client, NUMBERS[:9]))
    assert [one.label for one in results] == LABELS[:9]
    assert server.sizes == [9, 9, 9]


def test_error_of_a_shared_call_is_each_callers_own(server):
    errors = run(server, lambda client: outcomes(client, NUMBERS[:9]), model="other")
    assert {str(error) for error in errors} == {"no model other; there is: fake"}
    assert {type(error) for error in errors} == {convoy.NotFound}
    assert len({id(error) for error in errors}) == 9
    assert server.sizes == [9]


def test_caller_that_is_cancelled_harms_nobody(server):
    server.open.clear()

    async def use(client: convoy.AsyncImageClient) -> list[Any]:
        tasks = [asyncio.create_task(client.classify(image)) for image in NUMBERS[:9]]
        await arrival(server)
        tasks[4].cancel()
        server.open.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = run(server, use)
    assert isinstance(results.pop(4), asyncio.CancelledError)
    assert [one.label for one in results] == LABELS[:4] + LABELS[5:9]


def test_timeout_of_centuries_is_no_timeout_at_all(server):
    assert run(server, lambda client: client.classify(b"7"), timeout=1e300).label == "class7"


def test_last_caller_to_leave_ends_the_call(server):
    server.open.clear()

    async def use(client: convoy.AsyncImageClient) -> None:
        tasks = [asyncio.create_task(client.classify(image)) for image in NUMBERS[:9]]
        await arrival(server)
        for task in tasks:
            task.cancel()
        assert await asyncio.to_thread(server.left.acquire, timeout=20)
        await asyncio.gather(*tasks, return_exceptions=True)

    run(server, use)


def test_cancelled_before_sending_is_never_sent(server):
    async def use(client: convoy.AsyncImageClient) -> Any:
        task = asyncio.create_task(client.classify(b"1"))
        await asyncio.sleep(0)
        task.cancel()
        return await client.classify(b"2")

    assert run(server, use).label == "class2"
    assert server.sizes == [1]


def test_each_caller_has_its_own_timeout(server):
    server.open.clear()
    errors = run(server, lambda client: outcomes(client, NUMBERS[:9]), timeout=0.3)
    assert {str(error) for error in errors} == {f"{server.target}: no answer within 0.3 s"}
    assert {type(error) for error in errors} == {convoy.Timeout}
    assert server.sizes == [9]


def test_who_shares_a_call_may_have_more_time_left():
    async def use() -> None:
        world = World(timeout=0.01)
        first = asyncio.create_task(world.coalescer.classify(b"1", 0))
        asyncio.get_running_loop().call_soon(world.turn, 1000.0)  # before the second begins
        second = asyncio.create_task(world.coalescer.classify(b"2", 0))
        done, _ = await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
        assert done == {first}
        world.turn(2000.0)
        async with asyncio.timeout(20):
            results = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(error) for error in results] == [convoy.Timeout] * 2
        assert world.calls == 1

    asyncio.run(use())


def test_who_joins_a_call_late_may_have_less_time_left():
    async def use() -> None:
        world = World(timeout=30.0)
        late = asyncio.create_task(world.coalescer.classify("takes long to read.jpg", 0))
        await asyncio.sleep(0)
        world.turn(1000.0)
        other = asyncio.create_task(world.coalescer.classify(b"1", 0))
        world.read.set()
        with pytest.raises(convoy.Timeout):
            async with asyncio.timeout(20):
                await late
        assert not other.done()
        assert world.calls == 1
        other.cancel()

    asyncio.run(use())


class World:
    """A coalescer with a clock set by hand, whose calls are never answered."""

    def __init__(self, *, timeout: float) -> None:
        self.now, self.read, self.calls = 0.0, asyncio.Event(), 0
        planner = Planner(
            target="nowhere", model="", version=0, timeout=timeout, clock=lambda: self.now
        )
        self.coalescer = Coalescer(planner, self.run)

    def turn(self, now: float) -> None:
        self.now = now

    async def run(self, plan: Plan[Any]) -> AsyncGenerator[Any, None]:
        if isinstance(next(plan), Prepare):
            await self.read.wait()
            yield Slot(0, "late", pb.Image(encoded=b"1"))
        self.calls += 1
        await asyncio.get_running_loop().create_future()


def test_closing_ends_all_who_wait(server):
    server.open.clear()

    async def use(client: convoy.AsyncImageClient) -> list[Any]:
        calls = asyncio.gather(*map(client.classify, NUMBERS), return_exceptions=True)
        await arrival(server)
        await client.close()
        return await calls

    errors = run(server, use)
    assert all(str(error).endswith("the client was closed") for error in errors)
    assert {type(error) for error in errors} == {convoy.Unavailable}
