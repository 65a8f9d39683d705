"""Requests of which not all has come take a bounded amount of memory."""

from __future__ import annotations

import asyncio
import math
import socket
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from service.carrier import CallFailed
from service.errors import InvalidRequest, QueueFull
from service.fronts.exchange import Exchange
from service.fronts.framing import Frames, frame
from service.intake import PATIENCE_SECONDS, Holding, Intake
from tests.servers import PATIENCE, running_server
from tests.service.clock import Clock
from tests.service.rest import INFER, rest_addresses

BODY = b"x" * 80
WHOLE = frame(BODY)


def in_parts(*parts: bytes, ends: bool = True) -> Callable[[], asyncio.Future[dict[str, Any]]]:
    """A caller that sends these; where it does not end, no more comes."""
    events = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    events[-1]["more_body"] = not ends
    events.reverse()

    def once() -> asyncio.Future[dict[str, Any]]:
        future = asyncio.get_running_loop().create_future()
        if events:
            future.set_result(events.pop())
        return future

    return once


async def nowhere(event: dict[str, Any]) -> None:
    pass


async def message(intake: Intake, *parts: bytes, ends: bool = False) -> bytes:
    exchange = Exchange(in_parts(*parts, ends=ends), nowhere, intake)
    try:
        return await exchange.only_message(Frames(b"identity", 1000), math.inf)
    finally:
        exchange.close()


@pytest.mark.parametrize("unfinished", [WHOLE[:-1], WHOLE])  # the second still may go on
def test_a_message_is_refused_while_others_fill_the_room(unfinished: bytes) -> None:
    intake = Intake(100)

    async def run() -> None:
        waiting = asyncio.create_task(message(intake, unfinished))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull, match="100 bytes of requests"):
            await message(intake, unfinished)
        assert await message(intake, WHOLE, ends=True) == BODY  # it takes no room
        waiting.cancel()
        await asyncio.wait([waiting])
        again = asyncio.create_task(message(intake, unfinished))
        await asyncio.sleep(0)
        assert not again.done()
        again.cancel()

    asyncio.run(run())


@pytest.mark.parametrize("parts", [(WHOLE + WHOLE,), (WHOLE, WHOLE)], ids=["at once", "in turn"])
def test_a_unary_call_of_two_messages_is_told_so_however_they_come(
    parts: tuple[bytes, ...],
) -> None:
    with pytest.raises(CallFailed, match="the call has more than one message"):
        asyncio.run(message(Intake(1000), *parts, ends=True))


def test_who_is_slow_makes_room_for_others() -> None:
    clock = Clock()
    intake = Intake(100, clock=clock)

    async def run() -> None:
        slow = asyncio.create_task(message(intake, WHOLE[:-1]))
        await asyncio.sleep(0)
        clock.now += PATIENCE_SECONDS
        assert await message(intake, WHOLE[:-1], WHOLE[-1:], ends=True) == BODY
        with pytest.raises(QueueFull, match="too long to come"):
            await slow

    asyncio.run(run())


def test_a_message_for_which_there_is_never_room_is_not_to_be_sent_again() -> None:
    with pytest.raises(InvalidRequest, match="50 may be in the service at once"):
        asyncio.run(message(Intake(50), WHOLE[:-1]))


def test_nobody_is_dropped_in_vain() -> None:
    clock = Clock()
    intake = Intake(100, clock=clock)
    dropped: list[str] = []
    slow, quick, late = (
        Holding(intake, partial(dropped.append, name)) for name in ("slow", "quick", "late")
    )
    slow.hold(10)
    clock.now += PATIENCE_SECONDS
    quick.hold(80)
    with pytest.raises(QueueFull):
        late.hold(21)
    assert dropped == []
    late.hold(20)
    assert dropped == ["slow"]


def test_a_stream_that_is_dropped_does_not_go_on_with_a_hole() -> None:
    clock = Clock()
    intake = Intake(100, clock=clock)

    async def run() -> None:
        exchange = Exchange(in_parts(WHOLE + WHOLE[:-1], ends=False), nowhere, intake)
        messages = exchange.messages(Frames(b"identity", 1000))
        assert await anext(messages) == BODY
        second = asyncio.ensure_future(anext(messages))
        await asyncio.sleep(0)
        clock.now += PATIENCE_SECONDS
        Holding(intake, lambda: None).hold(100)
        with pytest.raises(QueueFull, match="too long to come"):
            await second

    asyncio.run(run())


@pytest.mark.usefixtures("no_collector")
def test_nothing_is_left_of_an_exchange() -> None:
    async def run() -> weakref.ref[Callable[[], object]]:
        caller = in_parts(WHOLE[:-1], WHOLE[-1:])
        exchange = Exchange(caller, nowhere, Intake(100))
        await exchange.only_message(Frames(b"identity", 1000), math.inf)
        exchange.close()
        return weakref.ref(caller)  # which nothing but the exchange still holds

    assert asyncio.run(run())() is None


def test_a_deadline_counts_while_a_message_comes() -> None:
    async def run() -> None:
        exchange = Exchange(in_parts(WHOLE[:-1], ends=False), nowhere, Intake(100))
        with pytest.raises(asyncio.CancelledError):
            await exchange.only_message(Frames(b"identity", 1000), monotonic())
        assert exchange.expired

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["unary", "stream"])
def test_a_message_that_is_whole_takes_no_room_any_more(kind: str) -> None:
    intake = Intake(100)

    async def run() -> None:
        exchange = Exchange(in_parts(WHOLE[:-1], WHOLE[-1:]), nowhere, intake)
        frames = Frames(b"identity", 1000)
        if kind == "unary":
            assert await exchange.only_message(frames, math.inf) == BODY
        else:
            assert await anext(exchange.messages(frames)) == BODY
        Holding(intake, lambda: None).hold(100)

    asyncio.run(run())


def half(address: str) -> socket.socket:
    """A connection on which three quarters of a request have come."""
    host, _, port = address.rpartition(":")
    one = socket.create_connection((host, int(port)), PATIENCE)
    head = f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: 8000\r\n\r\n"
    one.sendall(head.encode() + b"{" * 6000)
    return one


def status(one: socket.socket) -> int:
    return int(one.recv(4096).split()[1])


def test_a_body_is_refused_while_others_fill_the_room(models: Path, front: str) -> None:
    with running_server(models, max_queue_bytes=10_000) as server:
        for number, address in enumerate(rest_addresses(server, front), 1):
            both = [half(address), half(address)]
            server.wait_for_metric(number, "convoy_rejected_total", reason="queue_full")
            for one in both:
                one.sendall(b"{" * 2000)
            # What was read is no JSON.
            assert sorted(map(status, both)) == [400, 429]
            for one in both:
                one.close()
