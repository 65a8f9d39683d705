"""Where the time of one request goes: microseconds per stage, beside the bare work.

    python -m benchmarks.stages [--seconds 3] [--in-flight 1 64] [-- SERVICE OPTIONS]

The stages are means of what the service's own histograms saw while a C client (h2load) sent one
image a request; client and server share the processors. `bare` is the same work in a loop in one
thread of an otherwise idle process: what a stage has beyond it went into waiting for processors,
threads and the GIL.

    transport   the client's round trip, less what the handler took: HTTP/2, and the event loop
                until it gets to the call
    front       the handler, less the stages below: parse, check, admit, serialise
    decode      bare: `convoy.imaging.decode`
    hand-over   the rest of the decode stage: into a process and back
    queue       from decoded to the close of the batch
    compute     bare: ONNX Runtime on a batch of the mean size
    hand-over   the rest of the compute stage: into the session's thread and back
    answer      from the network's rows to the reply
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.h2load import framed, h2load, require_h2load
from benchmarks.processes import METHOD, Server, convoy_serve, heed_sigterm
from benchmarks.workloads import Workload, hardware, workloads
from convoy.bundle import Bundle
from convoy.processors import processor_count
from service.devices import CPU, Device
from service.session import Session

WARM_UP = 200


@dataclass(frozen=True)
class Breakdown:
    """One workload at one number of requests in flight; times in microseconds a request."""

    workload: str
    in_flight: int
    requests: int
    round_trip: float
    stages: dict[str, float]
    """By name, in order; they add up to the round trip."""
    batch_size: float
    server_cpu: float
    bare_cpu: float
    """Of decoding, and of the request's share of a batch."""


def timed(work: Callable[[], object], seconds: float) -> tuple[float, float]:
    """Mean microseconds of a call: of the clock, and of the processors."""
    work()
    calls, cpu, start = 0, time.process_time(), time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        work()
        calls += 1
    return spent / calls * 1e6, (time.process_time() - cpu) / calls * 1e6


class Means:
    """Means of the histograms between two scrapes of a server."""

    def __init__(self, before: dict[str, float], after: dict[str, float]) -> None:
        self._grown = {name: value - before.get(name, 0.0) for name, value in after.items()}

    def __call__(self, histogram: str, *labels: str) -> float:
        """Of the series that has these labels; 0 where nothing was observed."""
        count = self.grown(f"{histogram}_count", *labels)
        return self.grown(f"{histogram}_sum", *labels) / count if count else 0.0

    def grown(self, name: str, *labels: str) -> float:
        """By how much the series of that name and these labels have grown."""
        return sum(
            value
            for series, value in self._grown.items()
            if series.partition("{")[0] == name and all(label in series for label in labels)
        )


def breakdown(
    server: Server, bundle: Bundle, load: Workload, in_flight: int, seconds: float, body: Path
) -> Breakdown:
    """Load the server for about `seconds` and take the round trip apart."""
    url = f"http://{server.grpc_address}{METHOD}Classify"
    body.write_bytes(framed(load.request()))
    warm = h2load(url, body, requests=max(WARM_UP, in_flight), in_flight=in_flight)
    requests = max(in_flight, int(warm.requests / warm.seconds * seconds))
    before, cpu = server.metrics(), server.cpu_seconds()
    done = h2load(url, body, requests=requests, in_flight=in_flight)
    spent, means = server.cpu_seconds() - cpu, Means(before, server.metrics())
    if means.grown("convoy_images_total") != requests:
        raise SystemExit(f"{load.name}: not every request was answered")
    size = means("convoy_batch_size")
    decode, compute = bare_work(bundle, load, max(1, round(size)), seconds / 4)
    return Breakdown(
        load.name,
        in_flight,
        requests,
        round_trip=done.mean * 1e6,
        stages=stages(means, done.mean * 1e6, decode[0], compute[0]),
        batch_size=size,
        server_cpu=spent / requests * 1e6,
        bare_cpu=decode[1] + compute[1] / max(1, round(size)),
    )


def bare_work(
    bundle: Bundle, load: Workload, size: int, seconds: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """What `timed` says of decoding one image and of running a batch of `size`."""
    spec = bundle.manifest.input
    decode = timed(lambda: load.pixels(spec), seconds) if load.encoded else (0.0, 0.0)
    session = Session(bundle.model_path, Device(CPU), threads=processor_count())
    batch = np.stack([load.pixels(spec)] * size)
    return decode, timed(lambda: session.run(batch), seconds)


def stages(means: Means, round_trip: float, decode: float, compute: float) -> dict[str, float]:
    """The parts of a round trip; all in microseconds, those given are of the bare work."""
    handler = 1e6 * means("grpc_server_handling_seconds", 'grpc_method="Classify"')
    seen = {
        stage: 1e6 * means("convoy_stage_seconds", f'stage="{stage}"')
        for stage in ("decode", "queue", "compute", "answer")
    }
    return {
        "transport": round_trip - handler,
        "front": handler - sum(seen.values()),
        "decode, bare": decode,
        "decode, hand-over": seen["decode"] - decode,
        "queue": seen["queue"],
        "compute, bare": compute,
        "compute, hand-over": seen["compute"] - compute,
        "answer": seen["answer"],
    }


def table(rows: list[Breakdown]) -> str:
    """The breakdowns as Markdown, one column each."""

    def line(name: str, values: list[str]) -> str:
        return f"| {name} | {' | '.join(values)} |"

    return "\n".join(
        [
            line("microseconds a request", [f"{row.workload}, {row.in_flight}" for row in rows]),
            line("---", ["--:"] * len(rows)),
            *(line(name, [f"{row.stages[name]:,.0f}" for row in rows]) for name in rows[0].stages),
            line("**round trip**", [f"**{row.round_trip:,.0f}**" for row in rows]),
            line("images in a batch, mean", [f"{row.batch_size:.1f}" for row in rows]),
            line("server CPU", [f"{row.server_cpu:,.0f}" for row in rows]),
            line("of it bare work", [f"{row.bare_cpu:,.0f}" for row in rows]),
        ]
    )


def main() -> None:
    """Parse, serve, measure, print."""
    from benchmarks.bundles import write_bundles  # PyTorch: slow to import

    loads = {load.name: load for load in workloads()}
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load, about")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--workload", choices=loads, action="append", help="default: all")
    parser.add_argument("service", nargs="*", help="options of convoy-serve, after --")
    options = parser.parse_args()
    heed_sigterm()
    require_h2load()
    chosen = [loads[name] for name in options.workload or loads]
    with tempfile.TemporaryDirectory() as folder:
        models, body = Path(folder, "models"), Path(folder, "body")
        bundles = write_bundles(models, {load.network for load in chosen})
        with convoy_serve(models, *options.service) as server:
            rows = [
                breakdown(server, bundles[load.network], load, count, options.seconds, body)
                for load in chosen
                for count in options.in_flight
            ]
    print(f"{hardware()}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
