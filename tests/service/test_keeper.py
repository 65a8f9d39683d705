"""Changes that meet each other, or follow each other."""

from __future__ import annotations

import asyncio
from pathlib import Path

from service.devices import select_device
from service.keeper import Keeper
from service.metrics import Metrics
from service.models_file import FILE_NAME, Challenger, promote, roll_back
from service.repository import State
from service.settings import Settings
from service.shares import Shares
from tests.bundles import make_bundle


def versions_shown(metrics: Metrics) -> set[str]:
    """The versions that stand on /metrics."""
    samples = (one for family in metrics.registry.collect() for one in family.samples)
    return {one.labels["version"] for one in samples if one.name == "convoy_model_info"}


async def start(models: Path, terms: str, metrics: Metrics) -> Keeper:
    """Keep versions 1 and 2 of a model."""
    for version in (1, 2):
        make_bundle(models, version=version, size=8)
    (models / "models.toml").write_text(terms)
    keeper = Keeper(Settings(models=models), select_device("cpu"), metrics, Shares(1))
    await keeper.start()
    return keeper


def test_a_version_that_is_back_before_its_last_request_ends_is_counted(tmp_path: Path) -> None:
    async def life() -> None:
        metrics = Metrics()
        keeper = await start(tmp_path, "[tiny]\nversions = 'all'\n", metrics)
        with keeper.repository.get("tiny", 2).leases:
            await keeper.unload("tiny")
            loading = asyncio.create_task(keeper.load("tiny"))
            # The newest comes first, and is there by the time of the other.
            while getattr(keeper.repository.absent.get(("tiny", 1)), "state", "") != State.LOADING:
                await asyncio.sleep(0)
        await loading
        while len(keeper.models) > 2:
            await asyncio.sleep(0)
        assert versions_shown(metrics) == {"1", "2"}
        await keeper.close()

    asyncio.run(life())


def test_the_trial_of_another_challenger_goes_on(tmp_path: Path) -> None:
    async def life() -> None:
        keeper = await start(tmp_path, "[tiny.challenger]\nversion = 2\n", Metrics())
        await keeper.end_trial("tiny", Challenger(version=2, share=0.5), "it failed")
        assert keeper.repository.entries["tiny"].challenger == Challenger(version=2)
        await keeper.end_trial("tiny", Challenger(version=2), "it failed")
        assert keeper.repository.entries["tiny"].challenger is None
        assert keeper.repository.absent["tiny", 2].reason == "it failed"
        await keeper.close()

    asyncio.run(life())


def test_promotions_do_not_make_the_file_longer(tmp_path: Path) -> None:
    file = tmp_path / FILE_NAME
    file.write_text("[tiny]\nlabels={stable=2}\n")
    for _ in range(3):
        promote(tmp_path, "tiny", 3, previous=2)
        roll_back(tmp_path, "tiny", 2)
        assert file.read_text() == "[tiny]\nlabels={stable=2}\n"


def test_a_version_is_tried_again_when_its_limits_have_changed(tmp_path: Path) -> None:
    async def life() -> None:
        make_bundle(tmp_path, version=3, size=8, flaw="fails-on-nine")
        keeper = await start(tmp_path, "[tiny]\nmax_batch_size = 9\n", Metrics())
        assert keeper.repository.entries["tiny"].live == 2
        (tmp_path / FILE_NAME).write_text("[tiny]\nmax_batch_size = 8\n")
        await keeper.refresh()
        assert keeper.repository.entries["tiny"].live == 3
        await keeper.close()

    asyncio.run(life())
