"""The gauges of a GPU."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from service.nvml import GpuCollector
from tests.nvml import BUS_ID, FakeNvml


def gauges(*unsupported: str, bus_id: str = BUS_ID) -> dict[str, float]:
    """Values by name, as a scrape shows them, without the prefix."""
    registry = CollectorRegistry()
    registry.register(GpuCollector(FakeNvml(*unsupported), bus_id))
    lines = generate_latest(registry).decode().splitlines()
    samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {
        name.removeprefix("convoy_gpu_").removesuffix(f'{{gpu="{BUS_ID}"}}'): float(value)
        for name, _, value in samples
    }


def test_a_scrape_shows_the_gpu_in_base_units() -> None:
    assert gauges() == {
        "utilization_ratio": 0.87,
        "memory_used_bytes": 3 * 2**30,
        "memory_total_bytes": 141 * 2**30,
        "power_watts": 412.5,
        "temperature_celsius": 54.0,
    }


def test_what_the_gpu_does_not_tell_is_left_out() -> None:
    assert set(gauges("power", "utilization")) == {
        "memory_used_bytes",
        "memory_total_bytes",
        "temperature_celsius",
    }


@pytest.mark.parametrize("missing", ["init", "gpu"])
def test_without_a_driver_or_that_gpu_there_is_nothing(missing: str) -> None:
    assert gauges(missing, bus_id="0000:FF:00.0" if missing == "gpu" else BUS_ID) == {}
