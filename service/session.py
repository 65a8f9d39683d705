"""One network in ONNX Runtime, on the device the operator asked for."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from convoy.bundle import INPUT_NAME, OUTPUT_NAME
from service.errors import ModelFailure, OutOfMemory, UnfitError

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
# As ONNX Runtime's own allocator, the CUDA runtime, and its libraries put it.
NO_MEMORY = re.compile(r"Failed to allocate memory|out of memory|ALLOC_FAILED|bad_alloc")
MEMORY_RETRY_SECONDS = 1.0
_REMEDY = "install the NVIDIA driver and Convoy's extra `gpu`, or start with --device cpu"


@dataclass(frozen=True, slots=True)
class Device:
    """Where networks run."""

    provider: str
    index: int = 0
    fallback: str | None = None
    """Why `auto` did not get a GPU."""


def select_device(wanted: str) -> Device:
    """Resolve auto, cpu, cuda or cuda:N.

    Raises: NoCudaError where CUDA was asked for by name and cannot be had.
    """
    if wanted == "cpu":
        return Device(CPU)
    index = int(wanted.partition(":")[2] or 0)
    reason = _why_no_cuda(index)
    if reason is None:
        return Device(CUDA, index)
    if wanted == "auto":
        return Device(CPU, fallback=f"{reason}; {_REMEDY}")
    raise NoCudaError(f"device {wanted}: {reason}; {_REMEDY}")


def _why_no_cuda(index: int) -> str | None:
    if CUDA not in ort.get_available_providers():
        return "this build of ONNX Runtime has no CUDA provider"
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


class NoCudaError(UnfitError):
    """CUDA was asked for and cannot be had."""


class Session:
    """A loaded network; `run` may be called from one thread at a time.

    Raises: UnfitError where the file is no classifier; NoCudaError where the session did not get
    CUDA, which ONNX Runtime itself only logs.
    """

    def __init__(self, model: Path, device: Device, *, threads: int) -> None:
        try:
            self._session = ort.InferenceSession(
                model, _options(threads), providers=_providers(device)
            )
        except Exception as error:  # ONNX Runtime raises a dozen types of its own
            raise UnfitError(
                f"{model}: ONNX Runtime cannot load it: {_first_line(error)}"
            ) from None
        self.provider: str = self._session.get_providers()[0]
        if self.provider != device.provider:
            raise NoCudaError(
                f"asked for {device.provider}, the session got {self.provider}: "
                f"the CUDA 13 or cuDNN 9 libraries did not load; {_REMEDY}"
            )
        self._check_signature(model)

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Classify images [N, H, W, C]; returns probabilities [N, K].

        Raises: OutOfMemory; ModelFailure where the network fails or answers with another number of
        rows.
        """
        try:
            (rows,) = self._session.run([OUTPUT_NAME], {INPUT_NAME: images})
        except Exception as error:
            if NO_MEMORY.search(str(error)):
                text = f"the device has no memory for {len(images)} images now"
                raise OutOfMemory(text, retry_after=MEMORY_RETRY_SECONDS) from None
            raise ModelFailure(f"ONNX Runtime: {_first_line(error)}") from None
        if rows.ndim != 2 or len(rows) != len(images):
            raise ModelFailure(f"{len(images)} images gave an output of shape {rows.shape}")
        return np.asarray(rows, dtype=np.float32)

    def _check_signature(self, model: Path) -> None:
        inputs = {one.name: one.type for one in self._session.get_inputs()}
        outputs = {one.name: one.type for one in self._session.get_outputs()}
        wanted = {INPUT_NAME: "tensor(uint8)"}, {OUTPUT_NAME: "tensor(float)"}
        if (inputs, outputs) != wanted:
            raise UnfitError(
                f"{model}: takes {inputs} and gives {outputs}; a bundle's model takes "
                f"{wanted[0]} and gives {wanted[1]}"
            )


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin between batches would take the processors from the event loop and the
    # decoders, which share them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def _providers(device: Device) -> list[Any]:
    if device.provider == CPU:
        return [CPU]
    ort.preload_dlls()
    # The arena grows by what a batch needs, not by powers of two that are never given back.
    return [(CUDA, {"device_id": device.index, "arena_extend_strategy": "kSameAsRequested"}), CPU]


def _first_line(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error).strip().partition("\n")[0])[:300]
