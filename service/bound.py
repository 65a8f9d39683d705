"""A network that runs from buffers of its own, in batches of a few sizes.

On a GPU each batch size costs: kernels are chosen, memory is planned and CUDA graphs are recorded
for it. So batches are padded to the next of a few sizes, the buckets, and each bucket has its place
in the device's memory, bound once. The rows of a batch are written once on the host: into memory
that the device copies from by itself.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import structlog

from convoy.bundle import INPUT_NAME, OUTPUT_NAME
from service import cuda
from service.devices import CPU, Device
from service.session import (
    ON_CPU,
    Providers,
    Rows,
    Scores,
    Session,
    request_error,
)

# Tells ONNX Runtime which of the recorded CUDA graphs a run is.
GRAPH_KEY = "gpu_graph_id"

log = structlog.get_logger()


def bucket_sizes(most: int) -> tuple[int, ...]:
    """Powers of two, up to `most` and with it."""
    return (*(2**power for power in range((most - 1).bit_length())), most)


class Bucket:
    """Room on the device for a batch of `size` images [H, W, C] and their K answers."""

    def __init__(
        self,
        session: ort.InferenceSession,
        device: Device,
        size: int,
        shape: tuple[int, int, int],
        classes: int,
    ) -> None:
        place = "cpu" if device.provider == CPU else "cuda", device.index
        make = ort.OrtValue.ortvalue_from_shape_and_type
        self.size = size
        self._session = session
        self._images = make((size, *shape), np.uint8, *place)
        self._scores = make((size, classes), np.float32, *place)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(INPUT_NAME, self._images)
        self._binding.bind_ortvalue_output(OUTPUT_NAME, self._scores)
        self._options = ort.RunOptions()
        self._options.add_run_config_entry(GRAPH_KEY, str(size))

    def run(self, rows: Rows) -> Scores:
        """Classify exactly `size` images; returns what is overwritten by the next run."""
        self._images.update_inplace(rows)
        self._session.run_with_iobinding(self._binding, self._options)
        scores: Scores = self._scores.numpy()
        return scores


class BoundSession(Session):
    """A `Session` whose batches are padded to buckets, up to `most` images of `shape` [H, W, C].

    On CUDA, made and used by one and the same thread: recorded graphs belong to it. A batch is
    filled up with its own last image, so that nobody else's can make it fail or change its answers;
    what the network says of the filling is dropped here.

    Raises: OutOfMemory where the buffers have no room; and what `Session` raises.
    """

    def __init__(
        self,
        model: Path,
        device: Device,
        *,
        most: int,
        shape: tuple[int, int, int],
        classes: int,
        threads: int,
        providers: Providers = ON_CPU,
    ) -> None:
        super().__init__(model, device, threads=threads, providers=providers)
        self._rows = np.zeros((most, *shape), np.uint8)
        try:
            self._buckets = [
                Bucket(self._session, device, size, shape, classes) for size in bucket_sizes(most)
            ]
        except Exception as error:  # as below
            raise request_error(error, most) from None
        if device.provider != CPU and not cuda.lock_pages(self._rows):
            log.warning("pages_not_locked", bytes=self._rows.nbytes)

    def run(self, *parts: Rows) -> Scores:
        """Classify images [N, H, W, C], N at most `most`, as `Session.run` does."""
        count = sum(map(len, parts))
        bucket = next(bucket for bucket in self._buckets if bucket.size >= count)
        np.concatenate(parts, out=self._rows[:count])
        self._rows[count : bucket.size] = self._rows[count - 1]
        try:
            scores = bucket.run(self._rows[: bucket.size])
        except Exception as error:  # ONNX Runtime raises a dozen types of its own
            raise request_error(error, count) from None
        return scores[:count].copy()
