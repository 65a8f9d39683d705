"""The messages of a streamed answer on their way into Envoy."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from service.fronts import outbox
from service.fronts.framing import frame
from service.fronts.outbox import Outbox


class Taker:
    """Takes what is sent when a test says so, as Envoy does in its own time."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.taken: asyncio.Future[None] | None = None

    def __call__(self, event: dict[str, Any]) -> asyncio.Future[None]:
        assert event["more_body"]
        self.bodies.append(event["body"])
        self.taken = asyncio.get_running_loop().create_future()
        return self.taken

    async def take(self, error: Exception | None = None) -> None:
        """Take what was sent last."""
        assert self.taken is not None
        if error is None:
            self.taken.set_result(None)
        else:
            self.taken.set_exception(error)
        await asyncio.sleep(0)


def test_messages_that_come_meanwhile_go_together() -> None:
    async def work() -> None:
        taker = Taker()
        box = Outbox(taker)
        for message in (b"a", b"b", b"c"):
            await box.add(message)
        assert taker.bodies == [frame(b"a")]
        await taker.take()
        assert taker.bodies == [frame(b"a"), frame(b"b") + frame(b"c")]
        await box.add(b"d")
        assert box.rest() == frame(b"d")

    asyncio.run(work())


def test_a_slow_reader_holds_the_sender_back() -> None:
    async def work() -> None:
        taker = Taker()
        box = Outbox(taker)
        large = bytes(outbox.MOST)
        await box.add(large)
        held = asyncio.create_task(box.add(large))
        await asyncio.sleep(0)
        assert not held.done()
        await taker.take()
        await held
        assert len(taker.bodies) == 2

    asyncio.run(work())


def test_whoever_has_left_is_sent_nothing_more() -> None:
    async def work() -> None:
        taker = Taker()
        box = Outbox(taker)
        await box.add(b"a")
        await taker.take(ConnectionResetError())
        with pytest.raises(ConnectionResetError):
            await box.add(b"b")

    asyncio.run(work())
