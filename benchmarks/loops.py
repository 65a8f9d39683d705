"""Callers in this process: a steady number of them, or arrivals that wait for nobody."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Sequence

import grpc

from benchmarks.processes import METHOD

OPTIONS = (("grpc.max_send_message_length", 64 * 2**20),)
CALLERS = 16


class Caller:
    """Sends one request again and again and records what came back, by status code."""

    def __init__(self, channel: grpc.aio.Channel, payload: bytes, deadline: float) -> None:
        self._call = channel.unary_unary(METHOD + "Classify")
        self._payload = payload
        self._deadline = deadline
        self.latencies: defaultdict[str, list[float]] = defaultdict(list)

    async def __call__(self, due: float) -> None:
        """Send once; `due` is when it should have been sent."""
        try:
            await self._call(self._payload, timeout=self._deadline)
            code = "OK"
        except grpc.aio.AioRpcError as error:
            code = error.code().name
        self.latencies[code].append(time.perf_counter() - due)


async def closed_loop(call: Caller, seconds: float, callers: int = CALLERS) -> float:
    """Requests answered per second with a steady number of callers."""
    end = time.perf_counter() + seconds

    async def caller() -> None:
        while (now := time.perf_counter()) < end:
            await call(now)

    start = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return len(call.latencies["OK"]) / (time.perf_counter() - start)


async def open_loop(call: Caller, rate: float, seconds: float) -> float:
    """Send at random moments (Poisson), `rate` a second; returns the seconds it took."""
    arrivals, start = random.Random(0), time.perf_counter()
    due, tasks = start, set()
    while (due := due + arrivals.expovariate(rate)) < start + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.add(asyncio.create_task(call(due)))
    sending = time.perf_counter() - start
    await asyncio.gather(*tasks)
    return sending


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
