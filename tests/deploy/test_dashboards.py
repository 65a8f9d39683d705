"""Dashboards and alerts without a server: they parse, and use only what is there."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.conftest import alert_expressions


@pytest.fixture(scope="module")
def dashboard(root: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        (root / "deploy/grafana/dashboards/convoy.json").read_text()
    )
    return content


@pytest.fixture(scope="module")
def promtool() -> str:
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("promtool is missing: install Debian's package prometheus")
    return path


def test_panels_use_the_provisioned_data_source(dashboard: dict[str, Any], root: Path) -> None:
    file = root / "deploy/grafana/provisioning/datasources/prometheus.yml"
    (source,) = yaml.safe_load(file.read_text())["datasources"]
    used = {panel["datasource"]["uid"] for panel in dashboard["panels"]}
    assert used == {source["uid"]}


def test_panels_do_not_overlap(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_promtool_accepts_the_configuration(promtool: str, root: Path) -> None:
    command = [promtool, "check", "config", str(root / "deploy/prometheus/prometheus.yml")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert f"{len(alert_expressions())} rules found" in result.stdout


def test_promtool_accepts_every_expression(
    promtool: str, expressions: dict[str, str], tmp_path: Path
) -> None:
    rules = [{"record": "one", "labels": {"of": at}, "expr": e} for at, e in expressions.items()]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    result = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
