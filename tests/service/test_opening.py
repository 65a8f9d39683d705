"""How a model is opened: its load gets in nobody's way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from service.devices import select_device
from service.loading import warm_up
from service.opening import LONGEST_REST, open_model
from service.settings import Settings
from tests.bundles import make_bundle
from tests.service.sessions import Recorder


@pytest.mark.parametrize(("beside", "expected"), [(False, []), (True, [0.75, LONGEST_REST])])
def test_a_load_beside_others_rests_after_the_checks_and_the_proof(
    tmp_path: Path, beside: bool, expected: list[float]
) -> None:
    path = make_bundle(tmp_path).path
    rests: list[float] = []
    times = iter((0.0, 0.25, 10.0, 15.0))

    async def sleep(seconds: float) -> None:
        rests.append(seconds)

    async def load() -> None:
        settings = Settings(models=tmp_path)
        _, slots = await open_model(
            path,
            select_device("cpu"),
            settings,
            beside=beside,
            background=False,
            clock=lambda: next(times),
            sleep=sleep,
        )
        for slot in slots:
            slot.close()

    asyncio.run(load())
    assert rests == expected


@pytest.mark.parametrize(("bound", "sizes"), [(False, [6]), (True, [6, 4, 2, 1])])
def test_only_buckets_are_all_warmed_up(tmp_path: Path, bound: bool, sizes: list[int]) -> None:
    bundle = make_bundle(tmp_path)
    session = Recorder(bundle.model_path, select_device("cpu"), threads=1)
    warm_up(bundle.golden(), session, 6, bound=bound)
    assert session.sizes == sizes
