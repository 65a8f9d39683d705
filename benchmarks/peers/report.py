"""The comparison as Markdown and as what goes into the JSON file."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict

from benchmarks.peers.measure import Round
from benchmarks.peers.task import Setting

Workload = tuple[Mapping[str, list[Round]], Mapping[str, Setting], Mapping[str, str]]


def table(results: Mapping[str, Workload]) -> str:
    """One row for each contender on each workload; medians of its rounds."""
    lines = [
        "| workload | | settings | requests/s | of bare | CPU, us a request | application, "
        "requests/s | memory, MiB | cold start, s | failed |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, (found, chosen, failed) in results.items():
        bare = _median(found["bare"], "rate")
        for contender, rounds in found.items():
            rate = _median(rounds, "rate")
            lines.append(
                f"| {name} | {contender} | {chosen.get(contender, '')} | {rate:,.0f} "
                f"| {rate / bare:.2f} | {_median(rounds, 'cpu_us'):,.0f} "
                f"| {_optional(rounds, 'application', 1)} | {_optional(rounds, 'memory', 2**20)} "
                f"| {_optional(rounds, 'cold_start', 1, '.2f')} "
                f"| {sum(one.failed for one in rounds)} |"
            )
        lines += [f"| {name} | {who} | failed: {why} |" for who, why in failed.items()]
    return "\n".join(lines)


def document(
    results: Mapping[str, Workload],
    versions: Mapping[str, str],
    missing: Mapping[str, str],
    rounds: int,
    seconds: float,
) -> tuple[str, object]:
    """The text of the report, and the same for programs."""
    text = [
        f"{rounds} interleaved rounds of about {seconds:g} s; "
        + ", ".join(f"{name} {number}" for name, number in versions.items()),
        "",
        table(results),
        *(f"\n{name} is left out: {reason}" for name, reason in missing.items()),
    ]
    workloads = {
        name: {
            "rounds": {who: [asdict(one) for one in many] for who, many in found.items()},
            "settings": {who: asdict(one) for who, one in chosen.items()},
            "failed": dict(failed),
        }
        for name, (found, chosen, failed) in results.items()
    }
    return "\n".join(text), {"versions": versions, "missing": missing, "workloads": workloads}


def _median(rounds: list[Round], field: str) -> float:
    return statistics.median(getattr(one, field) for one in rounds)


def _optional(rounds: list[Round], field: str, unit: float, form: str = ",.0f") -> str:
    """Nothing where it was not measured."""
    if not all(getattr(one, field) for one in rounds):
        return ""
    return format(_median(rounds, field) / unit, form)
