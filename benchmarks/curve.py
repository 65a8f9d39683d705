"""Throughput against latency by the number of requests in flight, measured and drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.h2load import framed, h2load, latencies
from benchmarks.loops import quantile
from benchmarks.processes import METHOD, Server
from benchmarks.workloads import Workload

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IN_FLIGHT = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MOST = 4  # times what the workload has in flight elsewhere
BLUE, RED, GREY = "#2a78d6", "#c2410c", "#6b6a66"


@dataclass(frozen=True)
class Point:
    """One image a request, so many in flight; latency in milliseconds."""

    in_flight: int
    images_per_second: float
    p50: float
    p99: float


def measure_curve(server: Server, load: Workload, folder: Path, seconds: float) -> list[Point]:
    """Load the server at each number in flight for about `seconds`."""
    url = f"http://{server.grpc_address}{METHOD}Classify"
    body, log = folder / "curve.body", folder / "curve.log"
    body.write_bytes(framed(load.request()))
    points = []
    for in_flight in (one for one in IN_FLIGHT if one <= MOST * load.in_flight):
        warm = h2load(url, body, requests=2 * in_flight + 8, in_flight=in_flight)
        requests = max(2 * in_flight, int(warm.requests / warm.seconds * seconds))
        log.unlink(missing_ok=True)
        done = h2load(url, body, requests=requests, in_flight=in_flight, log=log)
        times = latencies(log)
        p50, p99 = (quantile(times, share) * 1e3 for share in (0.5, 0.99))
        points.append(Point(in_flight, requests / done.seconds, p50, p99))
    return points


def draw(curves: dict[str, list[Point]], bare: dict[str, float], file: Path, title: str) -> None:
    """One panel a workload; `bare` is images a second without a server. Writes a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    size = (4.6 * columns, 3.9 * rows)
    figure, panels = pyplot.subplots(
        rows, columns, figsize=size, squeeze=False, layout="constrained"
    )
    for panel in panels.flat[len(curves) :]:
        panel.set_visible(False)
    for panel, (name, points) in zip(panels.flat, curves.items(), strict=False):
        _panel(panel, name, points, bare[name])
    panels.flat[0].legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=9, color=GREY)
    figure.savefig(file, dpi=130)
    pyplot.close(figure)


def _panel(panel: Axes, name: str, points: list[Point], bare: float) -> None:
    rates = [one.images_per_second for one in points]
    panel.plot([one.p50 for one in points], rates, "o-", color=BLUE, ms=4, label="p50")
    panel.plot([one.p99 for one in points], rates, "s--", color=RED, ms=3, lw=1, label="p99")
    panel.axhline(bare, color=GREY, lw=1, ls=":", label="bare, no server")
    for one in points:
        panel.annotate(
            str(one.in_flight),
            (one.p50, one.images_per_second),
            textcoords="offset points",
            xytext=(-4, 5),
            ha="right",
            fontsize=7,
            color=BLUE,
        )
    panel.set_xscale("log")
    panel.set_ylim(0, max(*rates, bare) * 1.12)
    panel.set_title(name, fontsize=10)
    panel.set_xlabel("latency, ms (labels: requests in flight)", fontsize=8)
    panel.set_ylabel("images/s", fontsize=8)
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.25)
