"""What stands at the head of every result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.reports import ROOT, write
from training.runs import commit_of


def test_a_result_says_when_on_what_of_what_and_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [str(ROOT / "benchmarks" / "overload.py"), "--seconds", "5"])
    path = write(tmp_path, "cpu-overload", "the table", {"rate": 1.0})
    text, whole = (
        path.with_suffix(".md").read_text(),
        json.loads(path.with_suffix(".json").read_text()),
    )
    for fact in ("date", "hardware", "commit", "command"):
        assert whole[fact] in text
    assert whole["command"] == "python -m benchmarks.overload --seconds 5"
    assert whole["commit"] == commit_of(ROOT / "benchmarks" / "reports.py")
    assert "the table" in text
    assert whole["found"] == {"rate": 1.0}
