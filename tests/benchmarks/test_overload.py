"""The report of the flood; no test of speed."""

from __future__ import annotations

from benchmarks.overload import Overload, outcome, report


def test_rates_are_held_against_the_capacity_before() -> None:
    refused = outcome("RESOURCE_EXHAUSTED", [0.001, 0.002, 0.003])
    text = report(Overload(50.0, 100.0, 49.0, 51.0, 2**28, 2**29, [refused]))
    assert "| offered | 100.0 | 200% |" in text
    assert "| answered within the deadline | 49.0 | 98% |" in text
    assert "| RESOURCE_EXHAUSTED | 3 | 2.0 ms | 3.0 ms | 3.0 ms |" in text
    assert "256 MiB before, 512 MiB at the peak" in text
