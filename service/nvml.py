"""What NVIDIA's management library says of the GPU, as Prometheus gauges, asked at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import structlog
from prometheus_client.core import GaugeMetricFamily, Metric

log = structlog.get_logger()


class Nvml(Protocol):
    """The part of the module `pynvml` (package nvidia-ml-py) that is used here."""

    NVMLError: type[Exception]
    NVML_TEMPERATURE_GPU: int

    def nvmlInit(self) -> None:
        """Begin to use the driver."""

    def nvmlDeviceGetHandleByPciBusId(self, pciBusId: str) -> Any:
        """A GPU."""

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:
        """`gpu` in percent of the time."""

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:
        """`used` and `total` in bytes."""

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:
        """In milliwatts."""

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int:
        """In degrees Celsius."""


def load_nvml() -> Nvml | None:
    """The library, where its Python package and the driver are installed."""
    try:
        import pynvml
    except ImportError:
        log.info("no_gpu_metrics", reason="nvidia-ml-py is not installed: it is in the extra `gpu`")
        return None
    nvml: Nvml = pynvml
    return nvml


class GpuCollector:
    """Gauges of one GPU, for a Prometheus registry; what cannot be read is left out.

    `bus_id` is its address on PCI: NVIDIA's tools number GPUs otherwise than CUDA does.
    """

    def __init__(self, nvml: Nvml, bus_id: str) -> None:
        self._nvml = nvml
        self._bus_id = bus_id
        self._handle: Any = None
        try:
            nvml.nvmlInit()
            self._handle = nvml.nvmlDeviceGetHandleByPciBusId(bus_id)
        except nvml.NVMLError as error:
            log.info("no_gpu_metrics", reason=str(error))

    def collect(self) -> Iterable[Metric]:
        """Ask the driver."""
        if self._handle is None:
            return
        for name, text, read in (
            ("utilization_ratio", "Share of the time in which the GPU computed.", self._busy),
            ("memory_used_bytes", "GPU memory in use, by all processes.", self._used),
            ("memory_total_bytes", "GPU memory there is.", self._total),
            ("power_watts", "Power that the GPU draws.", self._power),
            ("temperature_celsius", "Temperature of the GPU.", self._temperature),
        ):
            yield from self._gauge(f"convoy_gpu_{name}", text, read)

    def _gauge(self, name: str, text: str, read: Callable[[], float]) -> Iterable[Metric]:
        try:
            value = read()
        except self._nvml.NVMLError:  # not every GPU tells everything
            return
        family = GaugeMetricFamily(name, text, labels=("gpu",))
        family.add_metric((self._bus_id,), value)
        yield family

    def _busy(self) -> float:
        return float(self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu) / 100

    def _used(self) -> float:
        return float(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used)

    def _total(self) -> float:
        return float(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).total)

    def _power(self) -> float:
        return self._nvml.nvmlDeviceGetPowerUsage(self._handle) / 1000

    def _temperature(self) -> float:
        sensor = self._nvml.NVML_TEMPERATURE_GPU
        return self._nvml.nvmlDeviceGetTemperature(self._handle, sensor)
