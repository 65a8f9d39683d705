"""The asyncio client: what it does differently. The plans it carries out are the same ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest
from PIL import Image

import convoy
from tests.convoy_client.fake import HEIGHT, WIDTH, FakeServer

NUMBERS = [str(number).encode() for number in range(100)]
LABELS = [f"class{number % 10}" for number in range(100)]


def run(
    server: FakeServer, use: Callable[[convoy.AsyncImageClient], Awaitable[Any]], **options: Any
) -> Any:
    async def main() -> Any:
        async with convoy.AsyncImageClient(server.target, **options) as client:
            return await use(client)

    return asyncio.run(main())


def test_every_kind_of_input(server, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"7")
    raw = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    images = [tmp_path / "a.jpg", b"4", raw, raw[:2], Image.fromarray(raw)]
    results = run(server, lambda client: client.classify(images))
    assert [one.label for one in results] == ["class7", "class4", "class0", "class0", "class0"]
    assert run(server, lambda client: client.classify(b"3")).label == "class3"


def test_many_tasks_share_a_client(server):
    async def use(client: convoy.AsyncImageClient) -> list[convoy.Result]:
        return await asyncio.gather(*(client.classify(image) for image in NUMBERS))

    assert [one.label for one in run(server, use)] == LABELS


def test_asynchronous_sequence_streams_in_order(server):
    async def images() -> AsyncIterator[bytes]:
        for number in NUMBERS:
            await asyncio.sleep(0)
            yield number
        yield b"bad"

    async def use(client: convoy.AsyncImageClient) -> list[Any]:
        return [one async for one in client.classify_stream(images())]

    *results, error = run(server, use)
    assert [one.label for one in results] == LABELS
    assert isinstance(error, convoy.InvalidRequest)
    assert error.index == 100


def test_models_and_health(server):
    async def use(client: convoy.AsyncImageClient) -> tuple[Any, ...]:
        return await client.list_models(), await client.get_model(), await client.health()

    models, model, health = run(server, use)
    assert models == [model]
    assert health == "SERVING"


def test_retries_within_the_timeout(server):
    server.refuse("UNAVAILABLE", times=2)
    assert run(server, lambda client: client.classify(b"7")).label == "class7"
    server.refuse("RESOURCE_EXHAUSTED", pushback="60000")
    with pytest.raises(convoy.Overloaded):
        run(server, lambda client: client.classify(b"7"), timeout=5)


def test_errors_are_the_clients_own(server):
    with pytest.raises(convoy.InvalidRequest, match=r"images\[1\]: not an image"):
        run(server, lambda client: client.classify([b"1", b"bad"]))
    server.open.clear()
    with pytest.raises(convoy.Timeout):
        run(server, lambda client: client.classify(b"7"), timeout=0.2)


def test_cancelling_a_task_cancels_its_calls(server):
    server.open.clear()

    async def use(client: convoy.AsyncImageClient) -> None:
        task = asyncio.create_task(client.classify(NUMBERS))
        await asyncio.to_thread(server.arrived.acquire, timeout=20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(server, use)


def test_closing_ends_calls_in_flight(server):
    server.open.clear()

    async def use(client: convoy.AsyncImageClient) -> None:
        task = asyncio.create_task(client.classify(b"1"))
        await asyncio.to_thread(server.arrived.acquire, timeout=20)
        await client.close()
        await task

    with pytest.raises(convoy.Unavailable, match="the client was closed"):
        run(server, use)


def test_closing_ends_a_stream_between_calls(server):
    async def use(client: convoy.AsyncImageClient) -> None:
        async with aclosing(client.classify_stream(b"1" for _ in range(10_000))) as outcomes:
            await anext(outcomes)
            await client.close()
            async for _ in outcomes:
                pass

    with pytest.raises(convoy.Unavailable, match="the client was closed"):
        run(server, use)


def test_leaving_a_stream_early(server):
    async def use(client: convoy.AsyncImageClient) -> convoy.Result | convoy.ClientError:
        async with aclosing(client.classify_stream(b"1" for _ in range(10_000))) as outcomes:
            return await anext(outcomes)

    assert run(server, use).label == "class1"
    assert sum(server.sizes) < 200


def test_closed_client_says_so(server):
    async def use(client: convoy.AsyncImageClient) -> None:
        await client.close()
        await client.health()

    with pytest.raises(convoy.ClientError, match="closed"):
        run(server, use)
