"""The sweep over delays, on a tiny network; no test of speed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.delays import DELAYS, IN_FLIGHT, draw, sweep, table
from benchmarks.processes import convoy_serve
from benchmarks.workloads import Workload
from convoy.v1 import image_classifier_pb2 as pb
from tests.bundles import make_bundle, solid


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is missing")
def test_each_delay_is_measured_with_each_number_in_flight(tmp_path: Path) -> None:
    load = Workload("photo", "tiny", pb.Image(encoded=solid("red")), 1, 1, 1)
    models = make_bundle(tmp_path / "models").model_path.parents[2]
    with convoy_serve(models, compiled=False) as server:
        rows = sweep(dict.fromkeys(DELAYS[:2], server), load, rounds=2, seconds=0.01)
    keys = [(row.in_flight, row.delay) for row in rows]
    assert keys == [(count, delay) for count in IN_FLIGHT for delay in DELAYS[:2]]
    assert {row.to_first for row in rows if row.delay == DELAYS[0]} == {1.0}
    assert {len(row.rounds) for row in rows} == {2}
    assert "| photo | 1 | 0 |" in table(rows)
    draw({"photo": rows}, tmp_path / "delays.png")
    assert (tmp_path / "delays.png").stat().st_size > 0
