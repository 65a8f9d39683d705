"""docs/operations.md and SECURITY.md against the service they describe."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.metrics import Metrics
from service.nvml import GpuCollector
from service.settings import Settings
from tests.deploy.conftest import alert_expressions
from tests.nvml import BUS_ID, FakeNvml


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs/operations.md").read_text()


def test_every_alert_is_explained(page: str) -> None:
    for where in alert_expressions():
        assert f"| `{where.split()[-1]}` |" in page


def test_every_metric_is_explained(page: str) -> None:
    gpu = GpuCollector(FakeNvml(), BUS_ID)
    for family in (*Metrics().collect(), *gpu.collect()):
        name = family.name + ("_total" if family.type == "counter" else "")
        assert f"| `{name}` | {family.type}" in page


@pytest.mark.parametrize("file", ["docs/operations.md", "SECURITY.md"])
def test_every_setting_that_is_named_exists(root: Path, file: str) -> None:
    prose = re.sub(r"^    .*\n", "", (root / file).read_text(), flags=re.MULTILINE)
    named = set(re.findall(r"`--([a-z-]+)", prose))
    assert len(named) >= 5
    assert {name.replace("-", "_") for name in named} <= {"help", *Settings.model_fields}


@pytest.mark.parametrize(
    "name", ["device", "drain_timeout", "max_batch_size", "max_delay_ms", "max_queue_size"]
)
def test_default_is_that_of_the_service(page: str, name: str) -> None:
    (default,) = re.findall(rf"^\| `--{name.replace('_', '-')}` \| `?([\w.]+)", page, re.MULTILINE)
    assert type(Settings.model_fields[name].default)(default) == Settings.model_fields[name].default
