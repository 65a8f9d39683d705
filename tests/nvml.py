"""NVIDIA's management library without a GPU: what service/nvml.py uses of it."""

from __future__ import annotations

from types import SimpleNamespace

BUS_ID = "0000:1B:00.0"


class FakeError(Exception):
    """As the library's own."""


class FakeNvml:
    """One GPU; what is in `unsupported` raises, as it does on GPUs that lack a sensor."""

    NVMLError: type[Exception] = FakeError
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, *unsupported: str) -> None:
        self._unsupported = unsupported

    def _check(self, name: str) -> None:
        if name in self._unsupported:
            raise FakeError("Not Supported")

    def nvmlInit(self) -> None:
        self._check("init")

    def nvmlDeviceGetHandleByPciBusId(self, pciBusId: str) -> str:
        if pciBusId != BUS_ID:
            raise FakeError("Not Found")
        return "handle"

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> SimpleNamespace:
        self._check("utilization")
        return SimpleNamespace(gpu=87, memory=12)

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:
        self._check("memory")
        return SimpleNamespace(used=3 * 2**30, total=141 * 2**30, free=138 * 2**30)

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        self._check("power")
        return 412_500

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        self._check("temperature")
        return 54
