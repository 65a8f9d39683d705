"""Twice the capacity for half a minute: does the service keep doing useful work?

    python -m benchmarks.overload [--seconds 30] [--factor 2] [--images 8] [--deadline 1]

First the capacity is measured in a closed loop. Then requests arrive at random (Poisson) at
`factor` times that rate, whether earlier ones were answered or not. Client and server share the
processors. Goodput counts only answers that came within the deadline. Latency is measured from the
moment a request was due, so a client that falls behind cannot hide it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.loops import Target, closed_loop, open_loop, quantile
from benchmarks.processes import ROOT, Server, convoy_serve, heed_sigterm
from benchmarks.workloads import hardware, photo
from convoy.v1 import image_classifier_pb2 as pb


def measure(server: Server, options: argparse.Namespace) -> None:
    """Run both loops and print what they found."""
    image = pb.Image(encoded=photo(500, 375))
    message = pb.ClassifyRequest(images=[image] * options.images).SerializeToString()
    patient = Target(server.grpc_address, message, 30.0)
    closed_loop(patient, 2.0)
    capacity = closed_loop(patient, 10.0).rate
    before = server.resident_bytes()
    target = Target(server.grpc_address, message, options.deadline)
    flood = open_loop(target, options.factor * capacity, options.seconds)
    after = closed_loop(patient, 5.0).rate
    seconds, total = flood.seconds, len(flood.calls)
    good = [one for one in flood.good if one <= options.deadline]
    print(f"capacity    {capacity:8.1f} requests/s of {options.images} images, closed loop")
    print(f"offered     {total / seconds:8.1f} requests/s for {seconds:.0f} s")
    print(
        f"goodput     {len(good) / seconds:8.1f} requests/s, {len(good) / seconds / capacity:.0%}"
    )
    for code, latencies in sorted(flood.latencies.items()):
        p50, p99 = (quantile(latencies, share) * 1e3 for share in (0.5, 0.99))
        print(
            f"{code:<20} {len(latencies):6}  p50 {p50:7.1f} ms"
            f"  p99 {p99:7.1f} ms  max {max(latencies) * 1e3:7.1f} ms"
        )
    peak = server.peak_bytes()
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
    heed_sigterm()
    print(hardware())
    with convoy_serve(options.models) as server:
        measure(server, options)


if __name__ == "__main__":
    main()
