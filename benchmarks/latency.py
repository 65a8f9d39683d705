"""What callers wait: alone, at 70 % of capacity, and for the first answer after a start.

    python -m benchmarks.latency [--seconds 60] [--share 0.7] [-- SERVICE OPTIONS]

Alone: one request after the other, beside the same work in a loop without a server. Under load:
requests arrive at random moments (Poisson), whether earlier ones were answered or not, and latency
counts from the moment one was due, so that neither a slow server nor a slow client hides a wait;
how late they were sent is told beside it. Capacity is what the same client reaches in a closed
loop first. Client and server share the processors. Cold start counts from the start of the process
to its first answer.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc

from benchmarks.loops import Target, closed_loop, open_loop, quantile
from benchmarks.processes import METHOD, ROOT, Server, convoy_serve, heed_sigterm
from benchmarks.reports import RESULTS, write
from benchmarks.workloads import Workload, photo, session, workloads
from convoy.bundle import Bundle
from convoy.v1 import image_classifier_pb2 as pb

DEADLINE = 30.0
NAMES = ("JPEG 500x375, small CNN", "JPEG 500x375, ResNet-18")
MEMORY_SAMPLES = 30


@dataclass(frozen=True)
class Latency:
    """Of one workload; milliseconds, mebibytes, requests a second."""

    workload: str
    alone_p50: float
    bare_p50: float
    capacity: float
    offered: float
    p50: float
    p99: float
    late_p99: float
    """After they were due, requests were sent: the part of the wait that is the client's."""
    sent: int
    errors: int
    memory: list[float]
    """At equal distances from the begin of the load to its end."""


def measure(
    server: Server, bundle: Bundle, load: Workload, seconds: float, share: float
) -> Latency:
    """Measure one workload: alone, then the capacity, then at that share of it."""
    target = Target(server.grpc_address, load.request().SerializeToString(), DEADLINE)
    closed_loop(target, min(2.0, seconds), load.in_flight)
    alone = closed_loop(target, min(5.0, seconds), 1)
    capacity = closed_loop(target, min(10.0, seconds), load.in_flight).rate
    with ThreadPoolExecutor(1) as beside:
        memory = beside.submit(sample_memory, server, seconds)
        part = open_loop(target, share * capacity, seconds)
    return Latency(
        load.name,
        quantile(alone.good, 0.5) * 1e3,
        bare_p50(bundle, load, min(5.0, seconds)) * 1e3,
        capacity,
        len(part.calls) / part.seconds,
        quantile(part.good, 0.5) * 1e3,
        quantile(part.good, 0.99) * 1e3,
        quantile(part.lateness, 0.99) * 1e3,
        len(part.calls),
        part.errors,
        memory.result(),
    )


def sample_memory(server: Server, seconds: float) -> list[float]:
    """Resident mebibytes, now and then until `seconds` are over."""
    found = [server.resident_bytes() / 2**20]
    for _ in range(MEMORY_SAMPLES):
        time.sleep(seconds / MEMORY_SAMPLES)
        found.append(server.resident_bytes() / 2**20)
    return found


def bare_p50(bundle: Bundle, load: Workload, seconds: float) -> float:
    """Median seconds to decode the image and run the network on it, without a server."""
    network, spec, found = session(bundle.model_path), bundle.manifest.input, []
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        network.run(None, {"images": load.pixels(spec)[None]})
        found.append(time.perf_counter() - start)
    return quantile(found, 0.5)


def cold_start(arguments: Sequence[str]) -> tuple[float, float]:
    """Seconds from starting on the shipped model to the first answer; its mebibytes then."""
    request = pb.ClassifyRequest(images=[pb.Image(encoded=photo(500, 375))]).SerializeToString()
    begin = time.perf_counter()
    with convoy_serve(ROOT / "models", *arguments) as server:
        with grpc.insecure_channel(server.grpc_address) as channel:
            channel.unary_unary(METHOD + "Classify")(request)
        return time.perf_counter() - begin, server.resident_bytes() / 2**20


def report(results: list[Latency], colds: list[tuple[float, float]]) -> str:
    """The figures as Markdown."""
    lines = [
        "| workload | alone, p50 | bare, p50 | capacity | offered | p50 | p99 | p99 / p50 "
        "| sent late, p99 | errors | memory, MiB: begin, middle, end |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for one in results:
        memory = (one.memory[0], one.memory[len(one.memory) // 2], one.memory[-1])
        lines.append(
            f"| {one.workload} | {one.alone_p50:.2f} ms | {one.bare_p50:.2f} ms "
            f"| {one.capacity:,.0f}/s | {one.offered:,.0f}/s | {one.p50:.1f} ms | {one.p99:.1f} ms "
            f"| {one.p99 / one.p50:.1f} | {one.late_p99:.1f} ms | {one.errors} of {one.sent} "
            f"| {', '.join(f'{value:.0f}' for value in memory)} |"
        )
    seconds, memory = (statistics.median(column) for column in zip(*colds, strict=True))
    return "\n".join(lines) + (
        f"\n\nCold start to the first answer, shipped model: {seconds:.2f} s, median of "
        f"{len(colds)}; {memory:.0f} MiB resident then."
    )


def main() -> None:
    """Parse, serve, measure, write Markdown and JSON."""
    from benchmarks.bundles import write_bundles  # PyTorch: slow to import

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of the open loop")
    parser.add_argument("--share", type=float, default=0.7, help="of the capacity to offer")
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("service", nargs="*", help="options of convoy-serve, after --")
    options = parser.parse_args()
    heed_sigterm()
    colds = [cold_start(options.service) for _ in range(options.starts)]
    results = []
    for load in (one for one in workloads() if one.name in NAMES):
        with tempfile.TemporaryDirectory() as models:
            bundle = write_bundles(Path(models), [load.network])[load.network]
            with convoy_serve(Path(models), *options.service) as server:
                results.append(measure(server, bundle, load, options.seconds, options.share))
    command = f"open loop of {options.seconds:g} s at {options.share:.0%} of capacity"
    found = {
        "latency": [asdict(one) for one in results],
        "cold_starts": colds,
    }
    write(options.out, "cpu-latency", f"{command}\n\n{report(results, colds)}", found)


if __name__ == "__main__":
    main()
