"""Does a flood on one model make the callers of another wait?

    python -m benchmarks.fairness [--seconds 20] [--rounds 3] [--rates 10 20] [-- SERVICE OPTIONS]

Both models are in one server. The callers of the one send photos at random moments (Poisson), few
enough that it is mostly idle; their latency counts from the moment a request was due. In turn they
are alone, and beside h2load, which keeps 64 requests to the other model in flight, two full
batches. Clients and server share the processors.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.h2load import GRPC, framed, require_h2load
from benchmarks.loops import Target, closed_loop, open_loop, quantile
from benchmarks.processes import METHOD, Server, convoy_serve, heed_sigterm, started
from benchmarks.reports import RESULTS, write
from benchmarks.workloads import Workload, workloads

DEADLINE = 30.0
NAMES = ("JPEG 500x375, small CNN", "JPEG 500x375, ResNet-18")
FLOOD = 64
LONGEST = 3600  # seconds, after which h2load would end by itself


@dataclass(frozen=True)
class Round:
    """Latencies of a model in milliseconds at `rate` requests/s, alone and beside the flood.

    `flood_rate` is what the flood got, in images/s.
    """

    flooded: str
    other: str
    rate: float
    alone_p50: float
    alone_p99: float
    beside_p50: float
    beside_p99: float
    errors: int
    flood_rate: float

    @property
    def ratio(self) -> float:
        """How many times longer the p99 is beside the flood."""
        return self.beside_p99 / self.alone_p99


def measure(
    server: Server, flooded: Workload, other: Workload, seconds: float, rate: float
) -> Round:
    """One round: the other model alone, then beside the flood."""
    target = Target(server.grpc_address, other.request().SerializeToString(), DEADLINE)
    closed_loop(target, min(1.0, seconds), 1)
    alone = open_loop(target, rate, seconds)
    with flood(server, flooded):
        before, begin = server.images_of(flooded.network), time.perf_counter()
        beside = open_loop(target, rate, seconds)
        took = time.perf_counter() - begin
        images = server.images_of(flooded.network) - before
    times = (quantile(one.good, share) * 1e3 for one in (alone, beside) for share in (0.5, 0.99))
    errors = alone.errors + beside.errors
    return Round(flooded.network, other.network, rate, *times, errors, images / took)


@contextmanager
def flood(server: Server, load: Workload) -> Iterator[None]:
    """Keep requests in flight until the end of the block."""
    with tempfile.NamedTemporaryFile() as body:
        Path(body.name).write_bytes(framed(load.request()))
        command = ["h2load", "-D", str(LONGEST), "-c", "4", "-m", str(FLOOD // 4), "-d", body.name]
        for header in GRPC:
            command += ["-H", header]
        command.append(f"http://{server.grpc_address}{METHOD}Classify")
        with started(command, stdout=subprocess.DEVNULL):
            yield


def report(rounds: list[Round]) -> str:
    """The figures as Markdown: medians of the rounds."""
    lines = [
        "| flooded | its images/s | other model | its requests/s | alone, p50 | p99 "
        "| beside, p50 | p99 | p99, ratio | errors |",
        "|---|--:|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for key in dict.fromkeys((one.flooded, one.other, one.rate) for one in rounds):
        same = [one for one in rounds if (one.flooded, one.other, one.rate) == key]

        def middle(name: str, rounds: list[Round] = same) -> float:
            return statistics.median(getattr(one, name) for one in rounds)

        lines.append(
            f"| {key[0]} | {middle('flood_rate'):,.0f} | {key[1]} | {key[2]:g} "
            f"| {middle('alone_p50'):.1f} ms | {middle('alone_p99'):.1f} ms "
            f"| {middle('beside_p50'):.1f} ms | {middle('beside_p99'):.1f} ms "
            f"| {middle('ratio'):.1f} | {sum(one.errors for one in same)} |"
        )
    return "\n".join(lines)


def all_rounds(server: Server, options: argparse.Namespace) -> list[Round]:
    """Each model flooded in turn, at each rate of the other, again and again."""
    small, large = (load for load in workloads() if load.name in NAMES)
    return [
        measure(server, *pair, options.seconds, rate)
        for _ in range(options.rounds)
        for rate in options.rates
        for pair in ((small, large), (large, small))
    ]


def main() -> None:
    """Parse, serve, measure, write Markdown and JSON."""
    from benchmarks.bundles import write_bundles  # PyTorch: slow to import

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="alone, and beside the flood")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[10.0, 20.0], help="requests/s beside it"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("service", nargs="*", help="options of convoy-serve, after --")
    options = parser.parse_args()
    heed_sigterm()
    require_h2load()
    with tempfile.TemporaryDirectory() as models:
        write_bundles(Path(models), ("small-cnn", "resnet18"))
        with convoy_serve(Path(models), *options.service) as server:
            rounds = all_rounds(server, options)
    text = f"{FLOOD} requests in flight to the one that is flooded, {options.seconds:g} s each\n\n"
    found = [asdict(one) for one in rounds]
    write(options.out, "fairness", f"{text}{report(rounds)}", found)


if __name__ == "__main__":
    main()
