"""Twice the capacity for half a minute: does the service keep doing useful work?

    python -m benchmarks.overload [--seconds 30] [--factor 2] [--images 8] [--deadline 1]

First the capacity is measured in a closed loop. Then requests arrive at random (Poisson) at
`factor` times that rate, whether earlier ones were answered or not. Client and server share the
processors. Goodput counts only answers that came within the deadline. Latency is measured from the
moment a request was due, so a client that falls behind cannot hide it.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.loops import Target, closed_loop, open_loop, quantile
from benchmarks.processes import ROOT, Server, convoy_serve, heed_sigterm
from benchmarks.reports import RESULTS, write
from benchmarks.workloads import photo
from convoy.v1 import image_classifier_pb2 as pb

PATIENCE = 30.0  # seconds, where nothing is to be refused


@dataclass(frozen=True)
class Outcome:
    """What became of the requests that had one status; latencies in milliseconds."""

    code: str
    requests: int
    p50: float
    p99: float
    longest: float


@dataclass(frozen=True)
class Overload:
    """Rates in requests/s, memory in bytes."""

    capacity: float
    offered: float
    goodput: float
    afterwards: float
    memory_before: int
    memory_peak: int
    outcomes: list[Outcome]


def measure(
    server: Server, *, images: int, factor: float, seconds: float, deadline: float
) -> Overload:
    """The capacity before, the flood, and the capacity after it."""
    request = pb.ClassifyRequest(images=[pb.Image(encoded=photo(500, 375))] * images)
    message = request.SerializeToString()
    patient = Target(server.grpc_address, message, PATIENCE)
    closed_loop(patient, seconds / 15)
    capacity, before = closed_loop(patient, seconds / 3).rate, server.resident_bytes()
    target = Target(server.grpc_address, message, deadline)
    flood = open_loop(target, factor * capacity, seconds)
    afterwards = closed_loop(patient, seconds / 6).rate
    good = sum(one <= deadline for one in flood.good)
    return Overload(
        capacity,
        len(flood.calls) / flood.seconds,
        good / flood.seconds,
        afterwards,
        before,
        server.peak_bytes(),
        [outcome(code, times) for code, times in sorted(flood.latencies.items())],
    )


def outcome(code: str, seconds: list[float]) -> Outcome:
    """Of the calls that ended with this status."""
    p50, p99 = (quantile(seconds, share) * 1e3 for share in (0.5, 0.99))
    return Outcome(code, len(seconds), p50, p99, max(seconds) * 1e3)


def report(found: Overload) -> str:
    """The figures as Markdown."""
    lines = [
        "| | requests/s | of the capacity |",
        "|---|--:|--:|",
        *(
            f"| {name} | {rate:,.1f} | {rate / found.capacity:.0%} |"
            for name, rate in (
                ("capacity before, closed loop", found.capacity),
                ("offered", found.offered),
                ("answered within the deadline", found.goodput),
                ("capacity afterwards, closed loop", found.afterwards),
            )
        ),
        "",
        "| status | requests | p50 | p99 | longest |",
        "|---|--:|--:|--:|--:|",
        *(
            f"| {one.code} | {one.requests} | {one.p50:.1f} ms | {one.p99:.1f} ms "
            f"| {one.longest:.1f} ms |"
            for one in found.outcomes
        ),
    ]
    before, peak = (value / 2**20 for value in (found.memory_before, found.memory_peak))
    return "\n".join([*lines, "", f"Memory: {before:.0f} MiB before, {peak:.0f} MiB at the peak."])


def main() -> None:
    """Parse, serve, measure, write Markdown and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=Path, default=ROOT / "models")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--factor", type=float, default=2.0)
    parser.add_argument("--images", type=int, default=8, help="in one request")
    parser.add_argument("--deadline", type=float, default=1.0, help="of each request, in seconds")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    heed_sigterm()
    with convoy_serve(options.models) as server:
        found = measure(
            server,
            images=options.images,
            factor=options.factor,
            seconds=options.seconds,
            deadline=options.deadline,
        )
    text = (
        f"requests of {options.images} photos for {options.seconds:g} s, "
        f"deadline {options.deadline:g} s\n\n{report(found)}"
    )
    write(options.out, "cpu-overload", text, asdict(found))


if __name__ == "__main__":
    main()
