"""How a model is opened: its load gets in nobody's way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from service.devices import select_device
from service.opening import LONGEST_REST, open_model
from service.settings import Settings
from tests.bundles import make_bundle


@pytest.mark.parametrize(("beside", "count"), [(False, 0), (True, 2)])
def test_a_load_beside_others_rests_between_its_steps(
    tmp_path: Path, beside: bool, count: int
) -> None:
    path = make_bundle(tmp_path).path
    rests: list[float] = []

    async def sleep(seconds: float) -> None:
        rests.append(seconds)

    async def load() -> None:
        settings = Settings(models=tmp_path)
        _, slots = await open_model(
            path, select_device("cpu"), settings, beside=beside, background=False, sleep=sleep
        )
        for slot in slots:
            slot.close()

    asyncio.run(load())
    assert len(rests) == count
    assert all(0.0 < one <= LONGEST_REST for one in rests)
