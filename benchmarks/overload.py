"""Twice the capacity for half a minute: does the service keep doing useful work?

    python -m benchmarks.overload [--seconds 30] [--factor 2] [--images 8] [--deadline 1]

First the capacity is measured in a closed loop. Then requests arrive at random (Poisson) at
`factor` times that rate, whether earlier ones were answered or not. Client and server share the
processors. Goodput counts only answers that came within the deadline. Latency is measured from the
moment a request was due, so a client that falls behind cannot hide it.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from collections import defaultdict
from pathlib import Path

import grpc
import uvloop

from benchmarks.processes import METHOD, Server, convoy_serve
from benchmarks.throughput import ROOT, hardware, photo
from convoy.v1 import image_classifier_pb2 as pb

OPTIONS = (("grpc.max_send_message_length", 64 * 2**20),)
CLOSED_LOOP_CALLERS = 16


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


async def closed_loop(call: Caller, seconds: float) -> float:
    """Requests answered per second with a steady number of callers."""
    end = time.perf_counter() + seconds

    async def caller() -> None:
        while (now := time.perf_counter()) < end:
            await call(now)

    start = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CLOSED_LOOP_CALLERS)))
    return len(call.latencies["OK"]) / (time.perf_counter() - start)


async def open_loop(call: Caller, rate: float, seconds: float) -> float:
    """Send at random moments, `rate` a second on average; returns the seconds it took."""
    arrivals, start = random.Random(0), time.perf_counter()
    due, tasks = start, set()
    while (due := due + arrivals.expovariate(rate)) < start + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.add(asyncio.create_task(call(due)))
    sending = time.perf_counter() - start
    await asyncio.gather(*tasks)
    return sending


def resident_bytes(server: Server, field: str) -> float:
    """VmRSS (now) or VmHWM (peak) of the server, in bytes."""
    for line in Path(f"/proc/{server.pid}/status").read_text().splitlines():
        if line.startswith(field):
            return float(line.split()[1]) * 1024
    return float("nan")


async def measure(server: Server, options: argparse.Namespace) -> None:
    """Run both loops and print what they found."""
    image = pb.Image(encoded=photo(500, 375))
    payload = pb.ClassifyRequest(images=[image] * options.images).SerializeToString()
    async with grpc.aio.insecure_channel(server.grpc_address, OPTIONS) as channel:
        await closed_loop(Caller(channel, payload, 30.0), 2.0)
        capacity = await closed_loop(Caller(channel, payload, 30.0), 10.0)
        before = resident_bytes(server, "VmRSS")
        call = Caller(channel, payload, options.deadline)
        seconds = await open_loop(call, options.factor * capacity, options.seconds)
        after = await closed_loop(Caller(channel, payload, 30.0), 5.0)
    good = [one for one in call.latencies["OK"] if one <= options.deadline]
    total = sum(map(len, call.latencies.values()))
    print(f"capacity    {capacity:8.1f} requests/s of {options.images} images, closed loop")
    print(f"offered     {total / seconds:8.1f} requests/s for {seconds:.0f} s")
    print(
        f"goodput     {len(good) / seconds:8.1f} requests/s, {len(good) / seconds / capacity:.0%}"
    )
    for code, latencies in sorted(call.latencies.items()):
        ordered = sorted(latencies)
        p50, p99 = statistics.median(ordered), ordered[int(len(ordered) * 0.99)]
        print(
            f"{code:<20} {len(ordered):6}  p50 {p50 * 1e3:7.1f} ms"
            f"  p99 {p99 * 1e3:7.1f} ms  max {ordered[-1] * 1e3:7.1f} ms"
        )
    peak = resident_bytes(server, "VmHWM")
    print(f"memory      {before / 2**20:8.0f} MiB before, {peak / 2**20:.0f} MiB at the peak")
    print(f"capacity    {after:8.1f} requests/s afterwards")


def main() -> None:
    """Parse, serve, measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=Path, default=ROOT / "models")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--factor", type=float, default=2.0)
    parser.add_argument("--images", type=int, default=8, help="in one request")
    parser.add_argument("--deadline", type=float, default=1.0, help="of each request, in seconds")
    options = parser.parse_args()
    print(hardware())
    with convoy_serve(options.models) as server:
        uvloop.run(measure(server, options))


if __name__ == "__main__":
    main()
