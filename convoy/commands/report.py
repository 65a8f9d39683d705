"""Turns the samples of a load into figures, and the figures into text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from convoy.commands.load import STAGES, Samples

_SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The figures of one run; every time in milliseconds but `elapsed_s`."""

    mode: str
    offered_per_s: float | None
    """Open loop: the requests a second that were due."""
    requests: int
    """Answered."""
    images: int
    elapsed_s: float
    requests_per_s: float
    images_per_s: float
    errors: dict[str, int]
    latency_ms: dict[str, float]
    late_ms: dict[str, float]
    """How long after it was due a request was sent: part of the latency, and the client's own."""
    stages_ms: dict[str, dict[str, float]]

    @property
    def failed(self) -> int:
        """Requests that were not answered."""
        return sum(self.errors.values())


def summarise(samples: Samples, *, mode: str, rate: float | None) -> Report:
    """Compute the figures."""
    requests, elapsed = len(samples.latencies), max(samples.elapsed, 1e-9)
    stages = {
        stage: percentiles([us / 1e6 for us in samples.stages[stage]], names=("p50", "p99"))
        for stage in STAGES
    }
    return Report(
        mode=mode,
        offered_per_s=rate,
        requests=requests,
        images=samples.images,
        elapsed_s=round(elapsed, 6),
        requests_per_s=round(requests / elapsed, 1),
        images_per_s=round(samples.images / elapsed, 1),
        errors=dict(samples.errors.most_common()),
        latency_ms=percentiles(samples.latencies),
        late_ms=percentiles(samples.lateness, names=("p50", "p99")),
        stages_ms=stages,
    )


def percentiles(
    seconds: Sequence[float], names: Sequence[str] = tuple(_SHARES)
) -> dict[str, float]:
    """Percentiles in milliseconds, by nearest rank: each is a value that was measured."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    ranks = {name: max(1, math.ceil(_SHARES[name] * len(ordered))) for name in names}
    return {name: round(ordered[rank - 1] * 1e3, 3) for name, rank in ranks.items()}


def to_text(report: Report) -> str:
    """The report as people read it."""
    offered = f" of {report.offered_per_s:g} offered" if report.offered_per_s else ""
    errors = ", ".join(f"{code} {number}" for code, number in report.errors.items())
    lines = [
        f"{report.mode}: {report.requests} requests answered in {report.elapsed_s:.1f} s",
        f"throughput   {report.requests_per_s:,.1f} requests/s{offered}, "
        f"{report.images_per_s:,.1f} images/s",
        f"errors       {errors or 'none'}",
        f"latency      {_figures(report.latency_ms)}",
    ]
    if report.offered_per_s:
        lines.append(f"  sent late  {_figures(report.late_ms)}")
    lines += [f"  {stage:10} {_figures(report.stages_ms[stage])}" for stage in STAGES]
    return "\n".join(lines)


def _figures(figures: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:9.3f} ms" for name, value in figures.items()) or "none"
