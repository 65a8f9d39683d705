"""Tells of changes in the folder of models."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

import structlog

# How long changes are gathered: copying a bundle takes a while.
GATHER_MS = 400
TIMEOUT_MS = 1000
RETRY_SECONDS = 10.0

log = structlog.get_logger()


async def watch(models: Path, on_change: Callable[[], Awaitable[None]]) -> None:
    """Await `on_change` once the watch stands, and whenever something has changed; never ends.

    Where the system has no notifications for a folder, as for some network drives, the variable
    WATCHFILES_FORCE_POLLING=1 has the library look for itself.
    """
    while True:
        try:
            await _follow(models, on_change)
        except Exception as error:  # of the operating system, by way of a Rust library
            log.error("watch_failed", folder=str(models), reason=str(error))
            await asyncio.sleep(RETRY_SECONDS)


async def _follow(models: Path, on_change: Callable[[], Awaitable[None]]) -> None:
    """As `watch`, until another folder has taken the place of this one, of which no notice comes.

    Raises: OSError where there is no folder any more, and what the library raises.
    """
    # Not above: most services do without it.
    from watchfiles import awatch

    looked = False
    changing = awatch(
        models,
        watch_filter=None,  # links to hidden folders, as Kubernetes makes them, count too
        debounce=GATHER_MS,
        rust_timeout=TIMEOUT_MS,
        yield_on_timeout=True,
    )
    with _opened(models) as folder:
        async with aclosing(changing):
            async for changes in changing:
                if changes or not looked:
                    looked = True
                    await on_change()
                if not os.path.samestat(folder, await asyncio.to_thread(os.stat, models)):
                    return


@contextmanager
def _opened(folder: Path) -> Iterator[os.stat_result]:
    """What tells a folder from others: open, for else the next one could get its number."""
    number = os.open(folder, os.O_RDONLY)
    try:
        yield os.fstat(number)
    finally:
        os.close(number)
