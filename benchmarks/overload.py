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

import grpc
import uvloop

from benchmarks.loops import OPTIONS, Caller, closed_loop, open_loop, quantile
from benchmarks.processes import ROOT, Server, convoy_serve, heed_sigterm
from benchmarks.workloads import hardware, photo
from convoy.v1 import image_classifier_pb2 as pb


async def measure(server: Server, options: argparse.Namespace) -> None:
    """Run both loops and print what they found."""
    image = pb.Image(encoded=photo(500, 375))
    payload = pb.ClassifyRequest(images=[image] * options.images).SerializeToString()
    async with grpc.aio.insecure_channel(server.grpc_address, OPTIONS) as channel:
        await closed_loop(Caller(channel, payload, 30.0), 2.0)
        capacity = await closed_loop(Caller(channel, payload, 30.0), 10.0)
        before = server.resident_bytes()
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
        uvloop.run(measure(server, options))


if __name__ == "__main__":
    main()
