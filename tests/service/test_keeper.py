"""Changes that meet each other, or follow each other."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from convoy.files import replace_file
from service.devices import select_device
from service.errors import ModelNotFound
from service.keeper import Keeper
from service.metrics import Metrics
from service.models_file import FILE_NAME, promote, roll_back
from service.repository import State
from service.settings import Settings
from service.shares import Shares
from tests.bundles import make_bundle
from tests.servers import PATIENCE


def run(life: Callable[[], Awaitable[None]]) -> None:
    """See it come to its end."""
    asyncio.run(asyncio.wait_for(life(), PATIENCE))  # type: ignore[arg-type]


@contextmanager
def held(manifest: Path) -> Iterator[Callable[[], Awaitable[None]]]:
    """Whoever reads this file waits for the end of the block; gives what waits for a reader."""
    text, ends = manifest.read_bytes(), []
    manifest.unlink()
    os.mkfifo(manifest)

    async def reached() -> None:
        while not ends:
            with suppress(OSError):  # nobody reads yet
                ends.append(os.open(manifest, os.O_WRONLY | os.O_NONBLOCK))
            await asyncio.sleep(0)

    yield reached
    ends.append(os.open(manifest, os.O_RDWR))
    os.write(ends[0], text)
    replace_file(manifest, text)
    for end in ends:
        os.close(end)


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

    run(life)


TRIAL = "[tiny.challenger]\nversion = 2\n"


def test_no_other_model_waits_for_a_load(tmp_path: Path) -> None:
    async def life() -> None:
        keeper = await start(tmp_path, TRIAL, Metrics())
        other = make_bundle(tmp_path, "other", size=8)
        with held(other.path / "manifest.json") as reached:
            loading = asyncio.create_task(keeper.load("other"))
            await reached()
            await keeper.roll_back("tiny")
            assert keeper.repository.entries["tiny"].versions.keys() == {1, 2}
            assert keeper.repository.entries["tiny"].challenger is None
        await loading
        await keeper.close()

    run(life)


def test_the_way_back_does_not_wait_for_a_load(tmp_path: Path) -> None:
    async def life() -> None:
        terms = "[tiny]\nversions = 'all'\nlabels = {stable = 2, previous = 1}\n"
        keeper = await start(tmp_path, terms, Metrics())
        new = make_bundle(tmp_path, version=3, size=8)
        with held(new.path / "manifest.json") as reached:
            loading = asyncio.create_task(keeper.refresh())
            await reached()
            returning = asyncio.create_task(keeper.roll_back("tiny"))
            while keeper.repository.entries["tiny"].live != 1:
                await asyncio.sleep(0)
        await asyncio.gather(loading, returning)
        assert keeper.repository.entries["tiny"].live == 1
        assert keeper.repository.entries["tiny"].versions.keys() == {1, 2, 3}
        await keeper.close()

    run(life)


def test_a_load_does_not_bring_a_challenger_back(tmp_path: Path) -> None:
    async def life() -> None:
        keeper = await start(tmp_path, TRIAL, Metrics())
        new = make_bundle(tmp_path, version=3, size=8)
        with held(new.path / "manifest.json") as reached:
            loading = asyncio.create_task(keeper.refresh())
            await reached()
            keeper.take_out(keeper.repository.get("tiny", 2), "it failed")
            assert keeper.repository.entries["tiny"].challenger is None
        with capture_logs() as lines:
            await loading
            while len(keeper.models) > 1:
                await asyncio.sleep(0)
        # Once: it was not loaded anew to be let go again.
        assert [one["version"] for one in lines if one["event"] == "closed"].count(2) <= 1
        assert keeper.repository.entries["tiny"].versions.keys() == {3}
        assert keeper.repository.absent["tiny", 2].reason == "it failed"
        await keeper.close()

    run(life)


def test_a_shadow_that_is_made_stable_answers_with_the_priority_of_others(tmp_path: Path) -> None:
    async def life() -> None:
        trial = "challenger = {version = 2, mode = 'shadow', share = 0.5}"
        keeper = await start(tmp_path, f"[tiny]\nlabels = {{stable = 2}}\n{trial}\n", Metrics())
        entry = keeper.repository.entries["tiny"]
        assert (entry.live, entry.champion.background) == (2, False)
        await keeper.close()

    run(life)


def test_what_has_been_taken_out_meanwhile_is_not_promoted(tmp_path: Path) -> None:
    async def life() -> None:
        keeper = await start(tmp_path, TRIAL, Metrics())
        challenger = keeper.repository.get("tiny", 2)
        with held(tmp_path / "tiny" / "2" / "manifest.json") as reached:
            promoting = asyncio.create_task(keeper.promote("tiny"))
            await reached()
            keeper.take_out(challenger, "it hangs")
        with pytest.raises(ModelNotFound, match=r"version 2: not loaded .*it hangs"):
            await promoting
        assert keeper.repository.entries["tiny"].live == 1
        assert (tmp_path / FILE_NAME).read_text() == TRIAL
        await keeper.close()

    run(life)


def test_a_version_that_cannot_be_had_stays_unfit_while_others_load(tmp_path: Path) -> None:
    async def life() -> None:
        make_bundle(tmp_path, version=3, size=8, flaw="fails-on-nine")
        keeper = await start(tmp_path, "[tiny]\nversions = 'all'\n", Metrics())
        new = make_bundle(tmp_path, version=4, size=8)
        with held(new.path / "manifest.json") as reached:
            loading = asyncio.create_task(keeper.refresh())
            await reached()
            assert keeper.repository.unfit()["tiny", 3]
        await loading
        assert keeper.repository.unfit()["tiny", 3]
        await keeper.close()

    run(life)


def test_what_is_missing_is_logged_once(tmp_path: Path) -> None:
    async def life() -> None:
        keeper = await start(tmp_path, "", Metrics())
        (tmp_path / FILE_NAME).write_text("[tiny]\nlabels = {stable = 9}\n")
        with capture_logs() as logs:
            await keeper.refresh()
            await keeper.refresh()
        folder = tmp_path / "tiny" / "9"
        assert [one["reason"] for one in logs if one["event"] == "unfit"] == [
            f"{folder}: no such folder"
        ]
        await keeper.close()

    run(life)


@pytest.mark.parametrize(
    ("terms", "reason"),
    [
        ("[other.challenger]\nversion = 1\n", "version 1 is the challenger of no other"),
        ("[other]\nlabels = {stable = 5}\n", "version 5: no such folder"),
    ],
)
def test_what_would_not_serve_is_not_loaded_but_logged_once(
    tmp_path: Path, terms: str, reason: str
) -> None:
    async def life() -> None:
        keeper = await start(tmp_path, terms, Metrics())
        make_bundle(tmp_path, "other", size=8)
        with capture_logs() as logs, held(tmp_path / "other" / "1" / "manifest.json"):
            await keeper.refresh()
            await keeper.refresh()
        (said,) = [one["reason"] for one in logs if one["event"] == "not_served"]
        assert reason in said
        await keeper.close()

    run(life)


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

    run(life)
