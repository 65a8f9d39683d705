"""The files of the deployment, read once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    """docker-compose.yml, with the default of every variable filled in."""
    text = (ROOT / "docker-compose.yml").read_text()
    content: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))
    return content


@pytest.fixture(scope="session")
def expressions() -> dict[str, str]:
    """Every PromQL expression of the dashboards and alerts, by where it stands."""
    return panel_expressions() | alert_expressions()


def panel_expressions() -> dict[str, str]:
    """Expressions of all panels, with Grafana's variables filled in."""
    found = {}
    for file in sorted((ROOT / "deploy/grafana/dashboards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                expression = target["expr"].replace("$__rate_interval", "1m")
                where = f"{file.name}: {panel['title']} {target['refId']}"
                found[where] = re.sub(r"\$\w+", ".*", expression)
    return found


def alert_expressions() -> dict[str, str]:
    """Expressions of all alerts."""
    file = ROOT / "deploy/prometheus/alerts.yml"
    groups = yaml.safe_load(file.read_text())["groups"]
    return {
        f"{file.name}: {rule['alert']}": rule["expr"] for group in groups for rule in group["rules"]
    }
