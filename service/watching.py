"""Tells of changes in the folder of models."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
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
    # Not above: most services do without it.
    from watchfiles import awatch

    while True:
        looked = False
        try:
            async for changes in awatch(
                models,
                watch_filter=None,  # links to hidden folders, as Kubernetes makes them, count too
                debounce=GATHER_MS,
                rust_timeout=TIMEOUT_MS,
                yield_on_timeout=True,
            ):
                if changes or not looked:
                    looked = True
                    await on_change()
        except Exception as error:  # of the operating system, by way of a Rust library
            log.error("watch_failed", folder=str(models), reason=str(error))
        await asyncio.sleep(RETRY_SECONDS)
