"""A Python application beside the service: tasks that classify one image each, by our own client.

    python -m benchmarks.application [--rounds N] [--seconds S] [--tasks N]

The application is this process: its event loop shares the processors with the service. Its calls
of one image are sent as they are (separate), or share requests (coalesced, the default). Rounds are
interleaved; figures are medians of the rounds. The network is untrained.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

import numpy as np

import convoy
from benchmarks.bundles import write_small_cnn
from benchmarks.processes import Server, convoy_serve
from benchmarks.throughput import hardware, photo
from convoy.client.inputs import ImageInput
from convoy.commands.bench import loop_factory

CONTENDERS = {"separate": convoy.Batching(coalesce=False), "coalesced": convoy.Batching()}


async def images_per_second(
    server: Server, image: ImageInput, batching: convoy.Batching, tasks: int, seconds: float
) -> float:
    """Classify with so many tasks for so long, connections made before the clock starts."""
    done = 0

    async def work(client: convoy.AsyncImageClient, end: float) -> None:
        nonlocal done
        while time.perf_counter() < end:
            await client.classify(image)
            done += 1

    async with convoy.AsyncImageClient(server.grpc_address, batching=batching) as client:
        await asyncio.gather(*(client.classify(image) for _ in range(tasks)))
        start = time.perf_counter()
        await asyncio.gather(*(work(client, start + seconds) for _ in range(tasks)))
        return done / (time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--tasks", type=int, default=64)
    options = parser.parse_args()
    raw = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    images: dict[str, ImageInput] = {"raw 32x32": raw, "JPEG 500x375": photo(500, 375)}
    print(hardware())
    with ExitStack() as stack:
        models = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_small_cnn(models)
        server = stack.enter_context(convoy_serve(models))
        runner = stack.enter_context(asyncio.Runner(loop_factory=loop_factory()))
        for name, image in images.items():
            rates: dict[str, list[float]] = defaultdict(list)
            for number in range(options.rounds):
                # Back and forth, so that nobody always follows the same neighbour.
                for one in list(CONTENDERS)[:: -1 if number % 2 else 1]:
                    measured = images_per_second(
                        server, image, CONTENDERS[one], options.tasks, options.seconds
                    )
                    rates[one].append(runner.run(measured))
            report(name, rates)


def report(name: str, rates: dict[str, list[float]]) -> None:
    """Print medians and ranges, and the ratio within the rounds, whose noise neighbours share."""
    for one, values in rates.items():
        print(
            f"{name}, {one}: {statistics.median(values):,.0f} images/s "
            f"({min(values):,.0f}-{max(values):,.0f})"
        )
    ratios = [a / b for a, b in zip(rates["coalesced"], rates["separate"], strict=True)]
    print(f"{name}: coalesced / separate = {statistics.median(ratios):.2f}", flush=True)


if __name__ == "__main__":
    main()
