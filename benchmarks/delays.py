"""What waiting for larger batches brings and costs: from it --max-delay-ms has its default.

    python -m benchmarks.delays [--rounds 3] [--seconds 0.5] [--delays 0 1 2] [-- SERVICE OPTIONS]

For each workload one service for each delay is started, with that workload's network alone. A C
client (h2load) on the same processors sends one image a request to one of them at a time, and keeps
1, 4, 16 or 64 requests in flight. Rounds are interleaved; figures are their medians. Where a round
has fewer than a hundred requests, p99 is the longest of them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.curve import GREY
from benchmarks.h2load import framed, h2load, latencies, require_h2load
from benchmarks.loops import quantile
from benchmarks.processes import METHOD, Server, convoy_serve, heed_sigterm
from benchmarks.reports import RESULTS, back_and_forth, median_ratio, write
from benchmarks.stages import Means
from benchmarks.workloads import Workload, hardware, workloads

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = ("raw 32x32, small CNN", "JPEG 500x375, small CNN", "JPEG 500x375, ResNet-18")
DELAYS = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0)
IN_FLIGHT = (1, 4, 16, 64)
SHADES = ("#9ec5f4", "#5598e7", "#1c5cab", "#0d2f5e")  # of IN_FLIGHT
LEAST = 8  # requests of a measurement


@dataclass(frozen=True)
class Round:
    """One measurement: images a second and a batch, milliseconds, processor us an image."""

    images_per_second: float
    batch_size: float
    p50: float
    p99: float
    cpu_us_per_image: float


@dataclass(frozen=True)
class Row:
    """One workload with so many requests in flight and a delay in milliseconds."""

    workload: str
    in_flight: int
    delay: float
    to_first: float
    """Images a second over those with the first delay: median of the ratios within each round."""
    rounds: list[Round]

    def median(self, field: str) -> float:
        """That field's median over the rounds."""
        return statistics.median(self._all(field))

    def range(self, field: str) -> tuple[float, float]:
        """Its least and its greatest."""
        return min(self._all(field)), max(self._all(field))

    def _all(self, field: str) -> list[float]:
        return [getattr(one, field) for one in self.rounds]


@contextmanager
def servers(
    network: str, delays: Sequence[float], options: Sequence[str]
) -> Iterator[dict[float, Server]]:
    """Run the service with each delay until the end of the block."""
    from benchmarks.bundles import write_bundles  # PyTorch: slow to import

    with ExitStack() as stack:
        models = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_bundles(models, [network])
        yield {
            delay: stack.enter_context(convoy_serve(models, f"--max-delay-ms={delay:g}", *options))
            for delay in delays
        }


def measure(server: Server, load: Workload, in_flight: int, requests: int) -> Round:
    """Send so many requests of one image."""
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder, "body"), Path(folder, "log")
        body.write_bytes(framed(load.request()))
        url = f"http://{server.grpc_address}{METHOD}Classify"
        before, cpu = server.metrics(), server.cpu_seconds()
        done = h2load(url, body, requests=requests, in_flight=in_flight, log=log)
        spent, means = server.cpu_seconds() - cpu, Means(before, server.metrics())
        times = latencies(log)
    if means.grown("convoy_images_total") != requests:
        raise SystemExit(f"{load.name}: not every request was answered")
    p50, p99 = (quantile(times, share) * 1e3 for share in (0.5, 0.99))
    size = means("convoy_batch_size")
    return Round(requests / done.seconds, size, p50, p99, spent / requests * 1e6)


def sweep(running: dict[float, Server], load: Workload, rounds: int, seconds: float) -> list[Row]:
    """Interleaved rounds, each measurement of about `seconds`."""
    found: dict[tuple[int, float], list[Round]] = {
        (in_flight, delay): [] for in_flight in IN_FLIGHT for delay in running
    }
    for number in range(rounds + 1):  # the first warms up, and tells how many requests to send
        for in_flight, delay in back_and_forth(list(found), number):
            seen = found[in_flight, delay]
            # Each caller sends twice at least: the first time all of them come at once.
            wanted = max(2 * in_flight, int(seen[-1].images_per_second * seconds)) if seen else 0
            requests = max(LEAST, in_flight, wanted)
            seen.append(measure(running[delay], load, in_flight, requests))
    rates = {key: [one.images_per_second for one in seen[1:]] for key, seen in found.items()}
    first = next(iter(running))
    return [
        Row(load.name, *key, median_ratio(rates[key], rates[key[0], first]), seen[1:])
        for key, seen in found.items()
    ]


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| workload | in flight | delay, ms | images/s | range | ratio to the first "
        "| images in a batch | p50, ms | p99, ms | server CPU, us an image |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        low, high = row.range("images_per_second")
        lines.append(
            f"| {row.workload} | {row.in_flight} | {row.delay:g} "
            f"| {row.median('images_per_second'):,.0f} | {low:,.0f}-{high:,.0f} "
            f"| {row.to_first:.2f} | {row.median('batch_size'):.1f} | {row.median('p50'):,.1f} "
            f"| {row.median('p99'):,.1f} | {row.median('cpu_us_per_image'):,.0f} |"
        )
    return "\n".join(lines)


def draw(results: dict[str, list[Row]], file: Path) -> None:
    """A column for each workload: images a second above, latency below. Writes a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    size = (4.6 * len(results), 7.0)
    figure, panels = pyplot.subplots(
        2, len(results), figsize=size, squeeze=False, sharex="col", layout="constrained"
    )
    for (rates, waits), (name, rows) in zip(panels.T, results.items(), strict=True):
        rates.set_title(name, fontsize=10)
        for in_flight, shade in zip(IN_FLIGHT, SHADES, strict=True):
            _lines(rates, waits, [row for row in rows if row.in_flight == in_flight], shade)
        _scales(rates, waits, sorted({row.delay for row in rows}))
    handles = panels[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.suptitle(hardware(), fontsize=9, color=GREY)
    figure.savefig(file, dpi=130)
    pyplot.close(figure)


def _lines(rates: Axes, waits: Axes, rows: list[Row], shade: str) -> None:
    delays = [row.delay for row in rows]
    throughput, p50, p99 = (
        [row.median(field) for row in rows] for field in ("images_per_second", "p50", "p99")
    )
    rates.plot(delays, throughput, "o-", color=shade, ms=4, label=f"{rows[0].in_flight} in flight")
    waits.plot(delays, p50, "o-", color=shade, ms=4)
    waits.plot(delays, p99, "s--", color=shade, ms=3, lw=1)


def _scales(rates: Axes, waits: Axes, delays: list[float]) -> None:
    from matplotlib.ticker import LogLocator

    rates.set_ylim(bottom=0)
    waits.set_xscale("symlog", linthresh=1, linscale=0.5)  # a logarithm that has room for 0
    waits.set_xlim(-0.3, 1.2 * delays[-1] + 0.3)
    waits.set_xticks(delays, [f"{delay:g}" for delay in delays], minor=False)
    waits.set_xticks([], minor=True)
    waits.set_yscale("log")
    waits.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    waits.yaxis.set_major_formatter("{x:g}")
    waits.yaxis.set_minor_formatter("")
    waits.set_xlabel("--max-delay-ms", fontsize=8)
    rates.set_ylabel("images/s", fontsize=8)
    waits.set_ylabel("latency, ms: p50, and p99 dashed", fontsize=8)
    for panel in (rates, waits):
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.25)


def main() -> None:
    """Parse, serve, measure, write Markdown and JSON, draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each measurement, about")
    parser.add_argument("--delays", type=float, nargs="+", default=DELAYS, help="milliseconds")
    parser.add_argument("--workload", choices=NAMES, action="append", help="default: all")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("service", nargs="*", help="options of convoy-serve, after --")
    options = parser.parse_args()
    heed_sigterm()
    require_h2load()
    results = {}
    for load in (one for one in workloads() if one.name in (options.workload or NAMES)):
        with servers(load.network, options.delays, options.service) as running:
            results[load.name] = sweep(running, load, options.rounds, options.seconds)
        print(table(results[load.name]), flush=True)
    rows = [row for found in results.values() for row in found]
    text = f"{options.rounds} interleaved rounds of about {options.seconds:g} s\n\n{table(rows)}"
    path = write(options.out, "cpu-delays", text, [asdict(row) for row in rows])
    draw(results, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
