"""The comparison as Markdown and as what goes into the JSON file."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict

from benchmarks.peers.measure import Round
from benchmarks.peers.task import Setting
from benchmarks.reports import median_ratio

Workload = tuple[Mapping[str, list[Round]], Mapping[str, Setting], Mapping[str, str]]


def table(results: Mapping[str, Workload]) -> str:
    """One row for each contender on each workload that has a round; medians of its rounds."""
    lines = [
        "| workload | | settings | requests/s | of bare | CPU, us a request | application, "
        "requests/s | memory, MiB | cold start, s | failed |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, (found, chosen, failed) in results.items():
        for contender, rounds in _measured(found).items():
            lines.append(
                f"| {name} | {contender} | {chosen.get(contender, '')} "
                f"| {_median(rounds, 'rate'):,.0f} "
                f"| {_ratio(rounds, found['bare'], 'rate'):.2f} | {_median(rounds, 'cpu_us'):,.0f} "
                f"| {_optional(rounds, 'application', 1)} | {_optional(rounds, 'memory', 2**20)} "
                f"| {_optional(rounds, 'cold_start', 1, '.2f')} "
                f"| {sum(one.failed for one in rounds)} |"
            )
        lines += [f"| {name} | {who} | failed: {why} |" for who, why in failed.items()]
    return "\n".join(lines)


def standing(results: Mapping[str, Workload]) -> str:
    """Our fastest front beside the fastest peer, under h2load and as an application sees it."""
    lines = []
    for name, (found, _, _) in results.items():
        for field in ("rate", "application"):
            ours, peer = (_fastest(found, field, own=own) for own in (True, False))
            if ours and peer:
                ratio = _ratio(found[ours], found[peer], field)
                lines.append(f"{name}, {field}: {ours} is {ratio:.2f} times as fast as {peer}")
    return "\n".join(lines)


def _fastest(found: Mapping[str, list[Round]], field: str, *, own: bool) -> str | None:
    medians = {
        who: _median(rounds, field)
        for who, rounds in _measured(found).items()
        if who.startswith("convoy") == own
        and not who.startswith("bare")
        and all(getattr(one, field) for one in rounds)
    }
    return max(medians, key=lambda who: medians[who], default=None)


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
        "",
        standing(results),
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


def _measured(found: Mapping[str, list[Round]]) -> dict[str, list[Round]]:
    """Those that did not fail before their first round was over."""
    return {who: rounds for who, rounds in found.items() if rounds}


def _median(rounds: list[Round], field: str) -> float:
    return statistics.median(getattr(one, field) for one in rounds)


def _ratio(ours: list[Round], theirs: list[Round], field: str) -> float:
    mine, others = ([getattr(one, field) for one in rounds] for rounds in (ours, theirs))
    return median_ratio(mine, others, strict=False)  # who fails is measured no further


def _optional(rounds: list[Round], field: str, unit: float, form: str = ",.0f") -> str:
    """Nothing where it was not measured."""
    if not all(getattr(one, field) for one in rounds):
        return ""
    return format(_median(rounds, field) / unit, form)
