"""The comparison of decoders; no test of speed."""

from __future__ import annotations

from benchmarks.decoding import WAYS, Row, measure, table


def test_every_way_is_measured_in_every_round() -> None:
    row = measure(64, 48, 16, rounds=3, seconds=0.0)
    assert {name: len(costs) for name, costs in row.microseconds.items()} == dict.fromkeys(WAYS, 3)


def test_ratios_are_those_within_the_rounds() -> None:
    costs = {"plain": [40.0, 90.0, 20.0], "draft": [20.0, 20.0, 20.0], "convoy": [20.0, 10.0, 20.0]}
    row = Row(64, 48, 16, costs)
    assert row.times_ours("plain") == 2.0
    assert "| 64x48 | 16 | 20 | 40 | 2.00 | 20 | 1.00 |" in table([row])
