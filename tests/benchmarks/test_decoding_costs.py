"""The comparison of decoders; no test of speed."""

from __future__ import annotations

from benchmarks.decoding import OURS, WAYS, measure, table


def test_every_way_is_measured_in_every_round() -> None:
    row = measure(64, 48, 16, rounds=3, seconds=0.0)
    assert {name: len(costs) for name, costs in row.microseconds.items()} == dict.fromkeys(WAYS, 3)
    assert row.times_ours(OURS) == 1.0
    assert len(table([row]).splitlines()) == 3
