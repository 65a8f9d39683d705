"""The comparison of ONNX Runtime's options, on a tiny network; no test of speed."""

from __future__ import annotations

from pathlib import Path

from benchmarks.runtime import CASES, compare, table, variants
from convoy.processors import processor_count
from tests.bundles import make_bundle


def test_each_variant_is_held_against_the_services_options(tmp_path: Path) -> None:
    names = [one.name for one in variants()]
    rows = compare(make_bundle(tmp_path), rounds=2, seconds=0.01)
    assert [(row.variant, row.case) for row in rows] == [
        (name, case) for name in names for case in CASES
    ]
    assert {row.to_service for row in rows if row.variant == names[0]} == {1.0}
    assert {len(row.rounds) for row in rows} == {2}
    assert len(table(rows).splitlines()) == 2 + len(names)


def test_a_variant_keeps_the_services_other_options() -> None:
    spinning = "session.intra_op.allow_spinning"
    found = {one.name: one.options() for one in variants()}
    assert found["no memory pattern"].get_session_config_entry(spinning) == "0"
    assert found["threads spin"].get_session_config_entry(spinning) == "1"
    assert found["threads spin"].intra_op_num_threads == processor_count()
