"""Which folder is watched: the one that has the name, whatever had it before."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from service.watching import watch
from tests.servers import PATIENCE


def turn_link(models: Path, new: Path) -> None:
    """The folder is a link, which comes to lead elsewhere."""
    link = models.with_name("link")
    link.symlink_to(new)
    link.replace(models)


def rename(models: Path, new: Path) -> None:
    """The folder makes way for another."""
    models.rename(models.with_name("old"))
    new.rename(models)


def replace(models: Path, new: Path) -> None:
    """The folder is deleted, and its number may go to the one that comes."""
    shutil.rmtree(models)
    models.mkdir()
    (new / "second").rename(models / "second")


@pytest.mark.parametrize("exchange", [turn_link, rename, replace])
def test_a_folder_that_takes_the_place_of_another_is_watched(
    tmp_path: Path, exchange: Callable[[Path, Path], None]
) -> None:
    models, first, new = tmp_path / "models", tmp_path / "first", tmp_path / "new"
    (first / "first").mkdir(parents=True)
    (new / "second").mkdir(parents=True)
    models.symlink_to(first) if exchange is turn_link else first.rename(models)

    async def life() -> None:
        seen: asyncio.Queue[set[str]] = asyncio.Queue()

        async def look() -> None:
            names = {one.name for one in models.iterdir()}
            if "first" in names:
                exchange(models, new)  # here, for the watch finds no folder in the midst of it
            seen.put_nowait(names)

        async def until(name: str) -> None:
            async with asyncio.timeout(PATIENCE):
                while name not in await seen.get():
                    pass

        watching = asyncio.create_task(watch(models, look))
        await until("second")
        (models / "third").mkdir()
        await until("third")
        watching.cancel()

    asyncio.run(life())
