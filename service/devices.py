"""Where networks run, and what ONNX Runtime is told about it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import onnxruntime as ort

from service import cuda
from service.errors import UnfitError

TENSORRT, CUDA = "TensorrtExecutionProvider", "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
# While one batch computes, the next is copied.
GPU_SLOTS = 2
# What ONNX Runtime says where TensorRT's libraries do not load.
NO_TENSORRT = "Please install TensorRT libraries"
_REMEDY = "install the NVIDIA driver and Convoy's extra `gpu`, or start with --device cpu"


@dataclass(frozen=True, slots=True)
class Device:
    """Where networks run."""

    provider: str
    index: int = 0
    fallback: str | None = None
    """Why `auto` did not get a GPU."""
    slots: int = 1
    """Batches of one model that may be under way at once."""
    bound: bool = False
    """Whether batches are padded to buckets and run from buffers that stay where they are."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How CUDA runs one network; what is best differs by network and GPU."""

    search: Literal["HEURISTIC", "EXHAUSTIVE"] = "HEURISTIC"
    """How cuDNN chooses the algorithm of each convolution: by its heuristics of mode A, or by those
    of mode B, which take longer and may choose better. Whatever the name says, neither searches."""
    nhwc: bool = False
    """Whether channels come last in memory."""
    graphs: bool = False
    """Whether each bucket is recorded once and then launched as a whole."""

    def without_graphs(self) -> Plan:
        """What runs without CUDA graphs: then algorithms are chosen at each change of size."""
        return replace(self, graphs=False, search="HEURISTIC")


@dataclass(frozen=True, slots=True)
class Engines:
    """What TensorRT needs to know of a network before it builds engines for it."""

    folder: Path | None
    """Where they are kept; None: nowhere."""
    shape: tuple[int, int, int]
    """(height, width, channels) of an image."""
    most: int
    """Images in the largest batch."""
    half: bool
    """Whether to compute in fp16."""


class NoCudaError(UnfitError):
    """CUDA was asked for and cannot be had."""


def select_device(wanted: str) -> Device:
    """Resolve auto, cpu, cuda, cuda:N, tensorrt or tensorrt:N.

    Raises: NoCudaError where a GPU was asked for by name and cannot be had.
    """
    if wanted == "cpu":
        return Device(CPU)
    kind, _, number = wanted.partition(":")
    provider, index = TENSORRT if kind == "tensorrt" else CUDA, int(number or 0)
    reason = _why_not(provider, index)
    if reason is None:
        return Device(provider, index, slots=GPU_SLOTS, bound=True)
    if wanted == "auto":
        return Device(CPU, fallback=f"{reason}; {_REMEDY}")
    raise NoCudaError(f"device {wanted}: {reason}; {_REMEDY}")


def _why_not(provider: str, index: int) -> str | None:
    if provider not in ort.get_available_providers():
        return f"this build of ONNX Runtime has no {provider}"
    return cuda.why_none(index)


def unusable(device: Device, reason: str) -> NoCudaError:
    """What to say where ONNX Runtime cannot make a device's provider, for the reason it gives."""
    if NO_TENSORRT in reason:
        return not_loaded(device)
    return NoCudaError(f"asked for {device.provider}: {reason}")


def not_loaded(device: Device) -> NoCudaError:
    """What to say where the libraries of a device's provider are missing."""
    libraries, remedy = "the CUDA 13 or cuDNN 9 libraries", _REMEDY
    if device.provider == TENSORRT:
        libraries = "the TensorRT 10 libraries"
        remedy = "install Convoy's extra `tensorrt`, or start with --device cuda"
    return NoCudaError(f"asked for {device.provider}: {libraries} did not load; {remedy}")


def provider_options(
    device: Device, plan: Plan, *, memory_limit: int | None = None, engines: Engines | None = None
) -> list[tuple[str, dict[str, str]]]:
    """The providers of a session, in order of preference, with their options.

    `memory_limit` is in bytes, for each session. `engines` is needed for TensorRT.
    """
    found: list[tuple[str, dict[str, str]]] = [(CPU, {})]
    if device.provider != CPU:
        found.insert(0, (CUDA, _cuda_options(device, plan, memory_limit)))
    if device.provider == TENSORRT:
        assert engines is not None
        found.insert(0, (TENSORRT, _tensorrt_options(device, engines)))
    return found


def _cuda_options(device: Device, plan: Plan, memory_limit: int | None) -> dict[str, str]:
    options = {
        "device_id": str(device.index),
        # The arena grows by what a batch needs, not by powers of two that are never given back.
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": plan.search,
        "prefer_nhwc": str(int(plan.nhwc)),
        "enable_cuda_graph": str(int(plan.graphs)),
    }
    if memory_limit is not None:
        options["gpu_mem_limit"] = str(memory_limit)
    return options


def _tensorrt_options(device: Device, engines: Engines) -> dict[str, str]:
    def shape(images: int) -> str:
        return "images:" + "x".join(map(str, (images, *engines.shape)))

    options = {
        "device_id": str(device.index),
        "trt_fp16_enable": str(int(engines.half)),
        # One engine for all buckets, tuned for the largest: that one decides the throughput.
        "trt_profile_min_shapes": shape(1),
        "trt_profile_opt_shapes": shape(engines.most),
        "trt_profile_max_shapes": shape(engines.most),
    }
    if engines.folder is not None:
        for kind in ("engine", "timing"):
            options |= {
                f"trt_{kind}_cache_enable": "1",
                f"trt_{kind}_cache_path": str(engines.folder),
            }
    return options
