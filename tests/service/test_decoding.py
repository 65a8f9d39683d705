"""Decoding in processes: rows and errors come back, and a process that ends takes nothing along."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convoy.imaging import DEFAULT_LIMITS, InputSpec, Limits, decode
from service.decode_channel import WINDOW
from service.decoding import Decoder
from service.errors import InvalidRequest, NotServing
from service.metrics import Metrics
from service.shares import Shares
from tests.bundles import solid
from tests.servers import PATIENCE, children, decoders
from tests.service.clock import Clock

SPEC = InputSpec(height=8, width=8, channels=3)
COLOURS = ["red", "lime", "blue"]
PHOTOS = [solid(colour) for colour in COLOURS]


@cache
def slow() -> bytes:
    """An image that takes a second or so."""
    buffer = io.BytesIO()
    Image.new("RGB", (9000, 5000)).save(buffer, "PNG")
    return buffer.getvalue()


@asynccontextmanager
async def a_decoder(limits: Limits = DEFAULT_LIMITS, **options: Any) -> AsyncIterator[Decoder]:
    decoder = Decoder(
        limits, **{"metrics": Metrics(), "shares": Shares(2), "processes": 2, **options}
    )
    decoder.start()
    try:
        await decoder.ready()
        yield decoder
    finally:
        decoder.close()


@asynccontextmanager
async def one_process(**options: Any) -> AsyncIterator[tuple[Decoder, int]]:
    """A decoder of one process, and the number of that."""
    others = decoders(os.getpid())
    async with a_decoder(processes=1, **options) as decoder:
        (number,) = decoders(os.getpid()) - others
        yield decoder, number


async def decoded(decoder: Decoder, *images: bytes) -> np.ndarray[Any, Any]:
    rows = np.zeros((len(images), *SPEC.shape), np.uint8)
    await asyncio.wait_for(decoder.decode(list(enumerate(images)), SPEC, rows, line="a"), PATIENCE)
    return rows


async def handed_over(decoder: Decoder) -> None:
    """Wait until a process has something in hand."""
    while not decoder.in_hand:
        await asyncio.sleep(0.001)


async def held_back(decoder: Decoder) -> asyncio.Task[np.ndarray[Any, Any]]:
    """An image of the model "a", which no process gets."""
    waiting = asyncio.create_task(decoded(decoder, PHOTOS[0]))
    await asyncio.sleep(0)
    assert not decoder.in_hand
    return waiting


def run(scene: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scene())


def test_each_image_comes_into_its_row() -> None:
    async def scene() -> None:
        async with a_decoder() as decoder:
            images = PHOTOS * (2 * WINDOW)
            rows = await decoded(decoder, *images)
            assert np.array_equal(rows, [decode(one, SPEC) for one in images])

    run(scene)


def test_an_image_that_is_none_fails_its_request_alone() -> None:
    async def scene() -> None:
        async with a_decoder() as decoder:
            good = asyncio.create_task(decoded(decoder, *PHOTOS))
            with pytest.raises(InvalidRequest, match=r"images\[2\]: not an image"):
                await decoded(decoder, *PHOTOS[:2], b"text", *PHOTOS)
            assert len(await good) == 3

    run(scene)


def test_what_the_processes_cost_is_counted() -> None:
    async def scene() -> None:
        metrics = Metrics()
        async with a_decoder(metrics=metrics) as decoder:
            await decoded(decoder, *PHOTOS)
            assert metrics.decoder_seconds > 0
            assert metrics.decoder_memory() > 2 * 2**20

    run(scene)


def test_the_limits_hold() -> None:
    async def scene() -> None:
        async with a_decoder(Limits(max_pixels=1)) as decoder:
            with pytest.raises(InvalidRequest, match="pixels"):
                await decoded(decoder, solid("red", 8))

    run(scene)


def test_a_process_that_rests_gets_its_messages_later() -> None:
    async def scene() -> None:
        async with one_process() as (decoder, first):
            os.kill(first, signal.SIGSTOP)
            waiting = [asyncio.create_task(decoded(decoder, PHOTOS[0])) for _ in range(3 * WINDOW)]
            await handed_over(decoder)
            os.kill(first, signal.SIGCONT)
            assert len(await asyncio.gather(*waiting)) == 3 * WINDOW

    run(scene)


def test_an_image_survives_the_process_that_has_it_in_hand() -> None:
    async def scene() -> None:
        metrics = Metrics()
        async with one_process(metrics=metrics) as (decoder, first):
            os.kill(first, signal.SIGSTOP)
            waiting = [asyncio.create_task(decoded(decoder, one)) for one in PHOTOS]
            await handed_over(decoder)
            os.kill(first, signal.SIGKILL)
            rows = await asyncio.gather(*waiting)
            assert [row.argmax() for row in np.concatenate(rows)[:, 0, 0]] == [0, 1, 2]
            assert metrics.decoder_crashes == 1

    run(scene)


def test_images_of_one_that_ended_get_their_turn_beside_others() -> None:
    async def scene() -> None:
        others = decoders(os.getpid())
        async with a_decoder(processes=2) as decoder:
            first, second = decoders(os.getpid()) - others
            os.kill(first, signal.SIGSTOP)
            os.kill(second, signal.SIGSTOP)
            waiting = [asyncio.create_task(decoded(decoder, one)) for one in PHOTOS * WINDOW]
            await handed_over(decoder)
            os.kill(first, signal.SIGKILL)
            os.kill(second, signal.SIGCONT)
            rows = np.concatenate(await asyncio.gather(*waiting))
            assert np.array_equal(rows, [decode(one, SPEC) for one in PHOTOS * WINDOW])

    run(scene)


def test_an_image_on_which_every_process_ends_is_refused() -> None:
    async def scene() -> None:
        async with one_process() as (decoder, first):
            others = decoders(os.getpid()) - {first}
            guilty = asyncio.create_task(decoded(decoder, slow()))
            await handed_over(decoder)
            os.kill(first, signal.SIGKILL)
            while not (second := decoders(os.getpid()) - others - {first}):
                await asyncio.sleep(0.001)
            await handed_over(decoder)
            os.kill(second.pop(), signal.SIGKILL)
            with pytest.raises(InvalidRequest, match=r"images\[0\]: the decoder crashes on it"):
                await guilty
            assert len(await decoded(decoder, *PHOTOS)) == 3

    run(scene)


def test_a_process_that_hangs_is_replaced() -> None:
    async def scene() -> None:
        async with one_process(stuck_seconds=0.5) as (decoder, first):
            os.kill(first, signal.SIGSTOP)
            assert len(await decoded(decoder, *PHOTOS)) == 3
            assert first not in decoders(os.getpid())

    run(scene)


def test_slow_images_of_one_caller_leave_a_process_to_the_others() -> None:
    async def scene() -> None:
        async with a_decoder(processes=2) as decoder:
            flood = [asyncio.create_task(decoded(decoder, slow()))]
            await flood[0]  # by which the processes learn how long these take
            flood += [asyncio.create_task(decoded(decoder, slow())) for _ in range(4)]
            await handed_over(decoder)
            row = np.zeros((1, *SPEC.shape), np.uint8)
            await decoder.decode([(0, PHOTOS[0])], SPEC, row, line="b")
            assert sum(not one.done() for one in flood) >= 2
            await asyncio.gather(*flood)

    run(scene)


def test_a_model_that_has_had_more_waits_while_another_computes() -> None:
    async def scene() -> None:
        shares = Shares(2)
        shares.charge("a", 1.0)
        async with a_decoder(shares=shares) as decoder:
            with shares.computing("b", 2):
                waiting = await held_back(decoder)
                rows = np.zeros((40, *SPEC.shape), np.uint8)
                await decoder.decode([(k, PHOTOS[1]) for k in range(40)], SPEC, rows, line="b")
                assert not waiting.done()
            assert len(await waiting) == 1

    run(scene)


def test_the_wait_for_another_model_ends_without_it() -> None:
    async def scene() -> None:
        clock = Clock()
        shares = Shares(2, clock=clock)
        shares.charge("a", 1.0)
        async with a_decoder(shares=shares) as decoder:
            with shares.computing("b", 2):
                waiting = await held_back(decoder)
                clock.now += 60.0
                assert len(await waiting) == 1

    run(scene)


def test_the_end_of_the_fork_server_is_no_end() -> None:
    async def scene() -> None:
        async with one_process() as (decoder, first):
            (fork_server,) = [one for one in children(os.getpid()) if first in children(one)]
            os.kill(fork_server, signal.SIGKILL)
            os.kill(first, signal.SIGKILL)
            assert len(await decoded(decoder, *PHOTOS)) == 3

    run(scene)


def test_who_waits_when_it_is_closed_is_told() -> None:
    async def scene() -> None:
        async with a_decoder(processes=1) as decoder:
            waiting = [asyncio.create_task(decoded(decoder, slow())) for _ in range(2 * WINDOW)]
            await handed_over(decoder)
        for one in waiting:
            with pytest.raises(NotServing):
                await one
        with pytest.raises(NotServing):
            await decoded(decoder, *PHOTOS)

    run(scene)


def test_processes_end_with_their_decoder() -> None:
    async def scene() -> None:
        others = decoders(os.getpid())
        async with a_decoder():
            assert len(decoders(os.getpid()) - others) == 2
        while decoders(os.getpid()) - others:
            await asyncio.sleep(0.01)

    run(scene)
