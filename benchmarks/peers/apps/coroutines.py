"""A Python application: many coroutines, each of which sends one image after the other."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

WARM_UP_SECONDS = 0.5


@dataclass(frozen=True)
class Arguments:
    """TARGET IMAGE SIDE MODEL COROUTINES SECONDS, as on the command line."""

    target: str
    image: bytes
    side: int
    model: str
    coroutines: int
    seconds: float


def arguments() -> Arguments:
    """Read the command line."""
    target, image, side, model, coroutines, seconds = sys.argv[1:]
    data = Path(image).read_bytes()
    return Arguments(target, data, int(side), model, int(coroutines), float(seconds))


async def measure(call: Callable[[], Awaitable[object]], given: Arguments) -> None:
    """Print requests, errors and seconds as JSON; the first half second does not count."""
    await _run(call, given.coroutines, WARM_UP_SECONDS)
    start = time.perf_counter()
    requests, errors = await _run(call, given.coroutines, given.seconds)
    seconds = time.perf_counter() - start
    print(json.dumps({"requests": requests, "errors": errors, "seconds": seconds}))


async def _run(
    call: Callable[[], Awaitable[object]], coroutines: int, seconds: float
) -> tuple[int, int]:
    end, counts = time.perf_counter() + seconds, [0, 0]

    async def send() -> None:
        while time.perf_counter() < end:
            try:
                await call()
                counts[0] += 1
            except Exception as error:
                counts[1] += 1
                print(f"{type(error).__name__}: {error}", file=sys.stderr)
                return

    await asyncio.gather(*(send() for _ in range(coroutines)))
    return counts[0], counts[1]
