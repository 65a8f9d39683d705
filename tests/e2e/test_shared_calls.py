"""Concurrent calls of the asyncio client against the real service: who gets which answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convoy
from tests.bundles import expected, make_bundle, solid
from tests.servers import Running, running_server

COLOURS = {"red": "red", "lime": "green", "blue": "blue"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    make_bundle(models)
    make_bundle(models, "grey", channels=1)
    with running_server(models, default_model="tiny") as running:
        yield running


def calls(server: Running) -> float:
    return server.metric("grpc_server_started_total", grpc_method="Classify")


async def outcomes(client: convoy.AsyncImageClient, images: list[Any]) -> list[Any]:
    return await asyncio.gather(*map(client.classify, images), return_exceptions=True)


def meaning(outcome: Any) -> Any:
    """What must not depend on the company that an image had."""
    if isinstance(outcome, convoy.Result):
        return outcome.label, [round(one.probability, 4) for one in outcome.classes]
    return type(outcome), outcome.detail


def test_lone_caller_sends_one_image_a_call(server: Running) -> None:
    async def use() -> None:
        async with convoy.AsyncImageClient(server.grpc_address) as client:
            for _ in range(10):
                assert (await client.classify(solid("red"))).label == "red"

    before = calls(server)
    asyncio.run(use())
    assert calls(server) - before == 10


def test_raw_pixels_of_500_callers_come_back_to_each(server: Running) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (500, 32, 32, 3), np.uint8)

    async def use() -> list[convoy.Result]:
        async with convoy.AsyncImageClient(server.grpc_address) as client:
            await client.classify(pixels[0])
            return await outcomes(client, list(pixels))

    before = calls(server)
    results = asyncio.run(use())
    answers = [[one.probability for one in sorted_by_index(result)] for result in results]
    np.testing.assert_allclose(answers, expected(pixels), atol=1e-5)
    assert calls(server) - before == 1 + 16  # 500 in calls of 32


def sorted_by_index(result: convoy.Result) -> list[convoy.ClassScore]:
    return sorted(result.classes, key=lambda one: one.index)


def test_500_mixed_calls_get_what_they_would_get_alone(server: Running, odd_images: Path) -> None:
    odd = [path for path in sorted(odd_images.iterdir()) if path.suffix != ".csv"]
    good = [solid(colour) for colour in COLOURS]
    mixed: list[Any] = odd + good * ((500 - len(odd)) // len(good))
    random.Random(0).shuffle(mixed)

    async def use() -> tuple[list[Any], list[Any]]:
        async with convoy.AsyncImageClient(
            server.grpc_address, batching=convoy.Batching(coalesce=False)
        ) as client:
            alone = dict(zip([*odd, *good], await outcomes(client, [*odd, *good]), strict=True))
        async with convoy.AsyncImageClient(server.grpc_address) as client:
            return await outcomes(client, mixed), [alone[image] for image in mixed]

    together, alone = asyncio.run(use())
    assert list(map(meaning, together)) == list(map(meaning, alone))


def test_clients_of_two_models_do_not_mix(server: Running) -> None:
    grey = np.full((32, 32), 200, np.uint8)

    async def use() -> tuple[list[Any], list[Any]]:
        tiny = convoy.AsyncImageClient(server.grpc_address)
        other = convoy.AsyncImageClient(server.grpc_address, model="grey")
        async with tiny, other:
            return await asyncio.gather(
                outcomes(tiny, [solid("red")] * 50), outcomes(other, [grey] * 50)
            )

    of_tiny, of_grey = asyncio.run(use())
    assert {one.model for one in of_tiny} == {"tiny"}
    assert {one.model for one in of_grey} == {"grey"}


def test_callers_that_leave_harm_nobody(server: Running) -> None:
    async def use() -> list[Any]:
        async with convoy.AsyncImageClient(server.grpc_address) as client:
            tasks = [asyncio.create_task(client.classify(solid("red"))) for _ in range(64)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(use())
    assert all(isinstance(one, asyncio.CancelledError) for one in results[::2])
    assert {one.label for one in results[1::2]} == {"red"}
