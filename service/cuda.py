"""What is asked of NVIDIA's driver directly, through its C interface."""

from __future__ import annotations

import ctypes
import importlib
import weakref
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

_TEXT_BYTES = 256


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, by what stays the same for other programs too."""

    name: str
    bus_id: str
    """Of PCI, as nvidia-smi prints it."""
    driver: int
    """The CUDA version of the driver: 13020 for 13.2."""

    @property
    def kind(self) -> tuple[str, int]:
        """What decides how fast it is, the same for all GPUs of a fleet."""
        return self.name, self.driver


def why_none(index: int) -> str | None:
    """Why CUDA has no GPU of that number; None where it has."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver on this machine (libcuda.so.1 is missing)"
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return "the NVIDIA driver does not answer"
    if index >= count.value:
        return f"there are {count.value} GPUs, numbered from 0"
    return None


def describe(index: int) -> Gpu:
    """The GPU of that number, which `why_none` has found."""
    driver = ctypes.CDLL("libcuda.so.1")
    device, version = ctypes.c_int(), ctypes.c_int()
    name, bus_id = (ctypes.create_string_buffer(_TEXT_BYTES) for _ in range(2))
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, _TEXT_BYTES, device)
    driver.cuDeviceGetPCIBusId(bus_id, _TEXT_BYTES, device)
    driver.cuDriverGetVersion(ctypes.byref(version))
    return Gpu(name.value.decode(), bus_id.value.decode(), version.value)


def load_libraries(*, tensorrt: bool) -> None:
    """Load CUDA's libraries, and TensorRT's, from their Python packages where those are."""
    # For every session, ONNX Runtime would warn that CUDA is built in and no plug-in. That is its
    # process's logger, which the severity of a session does not bind.
    ort.set_default_logger_severity(3)
    ort.preload_dlls()
    if tensorrt:
        with suppress(ImportError, OSError):  # OSError: it lacks a library itself
            importlib.import_module("tensorrt_libs")


def lock_pages(array: NDArray[np.uint8]) -> bool:
    """Keep an array's memory in place, so that the GPU reads it by itself; False where it cannot.

    The calling thread must have used CUDA before. The lock ends with the array.
    """
    driver = ctypes.CDLL("libcuda.so.1")
    address = ctypes.c_void_p(array.ctypes.data)
    if driver.cuMemHostRegister_v2(address, ctypes.c_size_t(array.nbytes), 0):
        return False
    weakref.finalize(array, _unlock, driver, address)
    return True


def _unlock(driver: Any, address: ctypes.c_void_p) -> None:
    driver.cuMemHostUnregister(address)
