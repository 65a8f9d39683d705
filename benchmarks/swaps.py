"""Do callers notice when a model is swapped under them, or another one shadows it?

    python -m benchmarks.swaps [--network resnet18] [--seconds 20] [--rounds 3] [--load 0.7]

Requests come at random moments (Poisson) at a share of what the server can do; latency counts from
the moment a request was due. In turn: nothing happens; every few seconds a new version is loaded
and swapped in, and those requests count that come from the order to load it until half a second
after it is there; a second version is shown the requests as a shadow. Clients and server share the
processors.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path

import convoy
from benchmarks.loops import Answers, Target, closed_loop, open_loop, quantile
from benchmarks.processes import Server, convoy_serve, heed_sigterm
from benchmarks.reports import RESULTS, write
from benchmarks.workloads import Workload, workloads
from convoy.bundle import MANIFEST_FILE

Span = tuple[float, float]

DEADLINE = 30.0
TOKEN = "only-on-this-machine"
PAUSE_SECONDS = 2.0
SETTLE_SECONDS = 0.5
"""After a load, in which the old version is closed and the new one sees its first large batches."""
LOADS = {"small-cnn": "JPEG 500x375, small CNN", "resnet18": "JPEG 500x375, ResNet-18"}


@dataclass(frozen=True)
class Round:
    """Latencies in milliseconds: undisturbed, during swaps, and beside a shadow."""

    rate: float
    still_p50: float
    still_p99: float
    swap_p50: float
    swap_p99: float
    shadow_p50: float
    shadow_p99: float
    swaps: int
    shown: float
    """Share of the images that the shadow was shown; the others were shed."""
    errors: int


def copy_version(source: Path, models: Path, version: int) -> None:
    """A bundle once more, under another number."""
    folder = models / source.parent.name
    work = folder / f".writing-{version}"
    shutil.copytree(source, work, copy_function=os.link)
    manifest = json.loads((source / MANIFEST_FILE).read_text())
    (work / MANIFEST_FILE).unlink()
    (work / MANIFEST_FILE).write_text(json.dumps(manifest | {"version": version}))
    work.rename(folder / str(version))


@contextmanager
def repository(source: Path, versions: int, trial: str = "") -> Iterator[Path]:
    """A folder of models with so many versions of a bundle."""
    with tempfile.TemporaryDirectory(dir=source.parents[2]) as folder:
        for version in range(1, versions + 1):
            copy_version(source, Path(folder), version)
        (Path(folder) / "models.toml").write_text(trial)
        yield Path(folder)


@contextmanager
def swapping(server: Server, source: Path, models: Path) -> Iterator[list[Span]]:
    """Load version after version until the end of the block; when each load began and ended.

    In a process of its own: the callers must not wait for its interpreter.
    """
    context = multiprocessing.get_context("spawn")
    stop, (ours, theirs) = context.Event(), context.Pipe(duplex=False)
    process = context.Process(target=swap, args=(server.grpc_address, source, models, stop, theirs))
    process.start()
    theirs.close()
    spans: list[Span] = []
    try:
        yield spans
    finally:
        stop.set()
        with suppress(EOFError):
            while True:
                spans.append(ours.recv())
        process.join()


def swap(address: str, source: Path, models: Path, stop: Event, spans: Connection) -> None:
    """What that process does."""
    name = source.parent.name
    with convoy.ModelControl(address, TOKEN) as control:
        for version in count(2):
            if stop.wait(PAUSE_SECONDS):
                return
            copy_version(source, models, version)
            begin = time.perf_counter()
            assert control.load(name).live_version == version
            spans.send((begin, time.perf_counter() + SETTLE_SECONDS))
            shutil.rmtree(models / name / str(version - 1))


def during(answers: Answers, spans: list[Span]) -> list[float]:
    """Latencies of the answered requests that were due in one of these spans, in seconds."""
    good = (one for one in answers.calls if one.code == "OK")
    return [one.ended - one.due for one in good if any(a <= one.due <= b for a, b in spans)]


def measure(options: argparse.Namespace, source: Path, load: Workload) -> Round:
    """One round: each of the three for `options.seconds`."""
    name, seconds = load.network, options.seconds
    message = load.request().SerializeToString()
    with (
        repository(source, 1) as models,
        convoy_serve(models, f"--control-token={TOKEN}", *options.service) as server,
    ):
        target = Target(server.grpc_address, message, DEADLINE)
        closed_loop(target, min(1.0, seconds))
        rate = options.load * closed_loop(target, min(4.0, seconds)).rate
        still = open_loop(target, rate, seconds)
        with swapping(server, source, models) as swaps:
            swapped = open_loop(target, rate, seconds)
    trial = f'[{name}.challenger]\nversion = 2\nmode = "shadow"\nshare = 1.0\n'
    with (
        repository(source, 2, trial) as models,
        convoy_serve(models, *options.service) as server,
    ):
        target = Target(server.grpc_address, message, DEADLINE)
        open_loop(target, rate, min(2.0, seconds))
        shadowed = open_loop(target, rate, seconds)
        shown = share_shown(server)
    found = (still.good, during(swapped, swaps), shadowed.good)
    times = (quantile(one, at) * 1e3 for one in found for at in (0.5, 0.99))
    errors = sum(one.errors for one in (still, swapped, shadowed))
    return Round(rate, *times, len(swaps), shown, errors)


def share_shown(server: Server) -> float:
    """Of the images that a shadow was to be shown, those that it was."""
    figures = server.metrics().items()
    seen, shed = (
        sum(value for key, value in figures if key.startswith(f"convoy_shadow_{one}_total"))
        for one in ("compared", "shed")
    )
    return seen / max(1.0, seen + shed)


def report(rounds: list[Round]) -> str:
    """The figures as Markdown: medians of the rounds."""

    def middle(name: str) -> float:
        return statistics.median(getattr(one, name) for one in rounds)

    swap, shadow = (
        statistics.median(getattr(one, f"{what}_p99") / one.still_p99 for one in rounds)
        for what in ("swap", "shadow")
    )
    rows = [
        ("undisturbed", "still", 1.0),
        ("during a swap", "swap", swap),
        ("a shadow", "shadow", shadow),
    ]
    return "\n".join(
        [
            f"{middle('rate'):,.0f} requests/s. {sum(one.swaps for one in rounds)} swaps; the "
            f"shadow was shown {middle('shown'):.0%} of the images; "
            f"{sum(one.errors for one in rounds)} errors.",
            "",
            "| | p50 | p99 | p99, ratio |",
            "|---|--:|--:|--:|",
            *(
                f"| {text} | {middle(f'{what}_p50'):.1f} ms | {middle(f'{what}_p99'):.1f} ms "
                f"| {ratio:.2f} |"
                for text, what, ratio in rows
            ),
        ]
    )


def main() -> None:
    """Parse, measure, write Markdown and JSON."""
    from benchmarks.bundles import write_bundles  # PyTorch: slow to import

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--network", choices=LOADS, default="resnet18")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each of the three")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--load", type=float, default=0.7, help="share of what the server can do")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("service", nargs="*", help="options of convoy-serve, after --")
    options = parser.parse_args()
    heed_sigterm()
    (load,) = (one for one in workloads() if one.name == LOADS[options.network])
    with tempfile.TemporaryDirectory() as folder:
        bundles = write_bundles(Path(folder), (options.network,))
        source = bundles[options.network].path
        rounds = [measure(options, source, load) for _ in range(options.rounds)]
    text = (
        f"{load.name}, {options.load:.0%} of what the server can do, {options.seconds:g} s each: "
    )
    write(options.out, "swaps", f"{text}{report(rounds)}", [asdict(one) for one in rounds])


if __name__ == "__main__":
    main()
