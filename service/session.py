"""One network in ONNX Runtime, on the device the operator asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from convoy.bundle import INPUT_NAME, OUTPUT_NAME
from service.devices import CPU, Device, not_loaded, unusable
from service.errors import ModelFailure, OutOfMemory, RequestError, UnfitError

# As ONNX Runtime's own allocator without and with a limit, the CUDA runtime, and its libraries put
# it.
NO_MEMORY = re.compile(
    r"Failed to allocate memory|Available memory of \d+ is smaller|out of memory"
    r"|ALLOC(ATION)?_FAILED|bad_alloc"
)
# Where in ONNX Runtime's source something failed, which would take all the room for what failed.
PLACE = re.compile(r"/\S+:\d+ [^()]*(\([^()]*\))+( const)?( \[with [^\]]*\])? ")
MEMORY_RETRY_SECONDS = 1.0

Rows = NDArray[np.uint8]
Scores = NDArray[np.float32]
Providers = Sequence[tuple[str, dict[str, str]]]
ON_CPU: Providers = ((CPU, {}),)


class Session:
    """A loaded network; `run` may be called from one thread at a time.

    Raises: UnfitError where the file is no classifier; NoCudaError where the device's provider
    cannot be had.
    """

    def __init__(
        self, model: Path, device: Device, *, threads: int, providers: Providers = ON_CPU
    ) -> None:
        try:
            self._session = ort.InferenceSession(
                model,
                session_options(device, threads),
                providers=list(providers),
                enable_fallback=0,  # which would hide why a provider cannot be had
            )
        except Exception as error:  # where the model is at fault, of a dozen own types
            # Or a UnicodeError, where the message quotes a name that is no text.
            plain = isinstance(error, (RuntimeError, ValueError))
            if device.provider != CPU and plain and not isinstance(error, UnicodeError):
                raise unusable(device, _first_line(error)) from None
            raise UnfitError(
                f"{model}: ONNX Runtime cannot load it: {_first_line(error)}"
            ) from None
        if self._session.get_providers()[0] != device.provider:  # of which it only logs
            raise not_loaded(device)
        self._check_signature(model)

    def run(self, *parts: Rows) -> Scores:
        """Classify images [N, H, W, C], in one or several parts, as one batch.

        Returns: probabilities [N, K], of all parts in their order.
        Raises: OutOfMemory; ModelFailure where the network fails or answers with another number of
        rows.
        """
        images = parts[0] if len(parts) == 1 else np.concatenate(parts)
        try:
            (rows,) = self._session.run([OUTPUT_NAME], {INPUT_NAME: images})
        except Exception as error:
            raise request_error(error, len(images)) from None
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


def request_error(error: Exception, images: int) -> RequestError:
    """What a failed run of so many images is to those who sent them."""
    if NO_MEMORY.search(str(error)):
        text = f"the device has no memory for {images} images now"
        return OutOfMemory(text, retry_after=MEMORY_RETRY_SECONDS)
    return ModelFailure(f"ONNX Runtime: {_first_line(error)}")


def session_options(device: Device, threads: int) -> ort.SessionOptions:
    """What a session is made with, beside its providers; docs/performance.md says why."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin between batches would take the processors from the event loop and the
    # decoders, which share them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    if device.provider == CPU and share_arena():
        options.add_session_config_entry("session.use_env_allocators", "1")
    return options


@cache
def share_arena() -> bool:
    """Let sessions on the CPU take their memory from one arena, once for the process.

    A new version then finds what the old one has left: memory of its own would cost the first large
    batches after a swap a page fault for every 4 KiB.
    """
    place = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    ort.create_and_register_allocator(place, None)
    return True


def _first_line(error: Exception) -> str:
    line = PLACE.sub("", str(error).strip().partition("\n")[0])
    return re.sub(r"\s+", " ", line)[:300]
