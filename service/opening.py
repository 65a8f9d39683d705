"""Brings a model from a folder to slots that can serve, without getting in the way of others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TypeVar

from convoy.bundle import Bundle
from service.devices import CPU, Device
from service.loading import find_plan, open_bundle, open_proven, open_session, prove
from service.scheduling import BACKGROUND, COMPUTES, give_way
from service.served import Slot
from service.session import Session
from service.settings import Settings
from service.worker import Worker

T = TypeVar("T")

# Beside others that serve: the rest after the checks and after the proof, in times what each took,
# and at most in seconds.
# Whatever the priority, what is loaded takes processor time from networks that are already busy,
# and the queue that grows meanwhile is gone only long after.
REST, LONGEST_REST = 3.0, 1.0


async def open_model(
    path: Path,
    device: Device,
    settings: Settings,
    *,
    beside: bool,
    background: bool,
    clock: Callable[[], float] = monotonic,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> tuple[Bundle, list[Slot]]:
    """Check a bundle and open its sessions, each in a thread of its own.

    `beside` others that serve, all that takes time runs in one thread at a lower priority, and
    rests: on the CPU the proof is a session of its own, since priorities cannot be raised again,
    and another one serves. What runs in the `background` keeps that priority.

    Raises: UnfitError, NoCudaError.
    """
    opener = Worker("opener")

    async def gently(step: Awaitable[T]) -> T:
        begin = clock()
        result = await step
        if beside:
            await sleep(min(REST * (clock() - begin), LONGEST_REST))
        return result

    try:
        if beside or background:
            await opener.run(give_way, BACKGROUND)
        bundle, golden = await gently(opener.run(open_bundle, path))
        plan = await opener.run(partial(find_plan, beside=beside), bundle, golden, device, settings)
        load = open_session
        if beside and not background and device.provider == CPU:
            alone = settings.model_copy(update={"compute_threads": 1})
            await gently(opener.run(prove, bundle, golden, device, plan, alone))
            load = open_proven
    finally:
        opener.close()
    make = partial(load, bundle, golden, device, plan, settings)
    computes = COMPUTES if device.provider == CPU else 0
    steps = BACKGROUND if background else computes
    name = f"onnxruntime-{bundle.manifest.name}"
    return bundle, await _open_slots(make, name, steps, count=device.slots)


async def _open_slots(
    make: Callable[[], Session], name: str, steps: int, *, count: int
) -> list[Slot]:
    """Open all of them, or none."""
    slots: list[Slot] = []
    try:
        # One after the other: nothing else may use a GPU while CUDA graphs are recorded.
        while len(slots) < count:
            slots.append(await _open_slot(make, f"{name}-{len(slots)}", steps))
    except BaseException:
        for slot in slots:
            slot.close()
        raise
    return slots


async def _open_slot(make: Callable[[], Session], name: str, steps: int) -> Slot:
    worker = Worker(name)
    try:
        await worker.run(give_way, steps)
        return Slot(await worker.run(make), worker)
    except BaseException:
        worker.close()
        raise
