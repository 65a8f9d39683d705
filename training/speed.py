"""Size and latency of ONNX graphs side by side, measured in turns on this processor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from convoy.bundle import Precision, Speed
from training.measure import OnnxModel
from training.runs import describe_processor

BATCHES = (1, 64)

ROUNDS = 30
"""Of which the median is taken: few enough for a second or two, many enough to be steady."""
LEAST_ROUNDS = 3
BUDGET = 2.0
"""Seconds after which `LEAST_ROUNDS` are enough: large networks take as long for one batch."""


def measure_speed(
    graphs: Mapping[Precision, bytes], images: NDArray[np.uint8], batches: Sequence[int] = BATCHES
) -> tuple[Speed, ...]:
    """Run each graph on batches of `images` [N, H, W, C], repeated where there are too few."""
    models = [OnnxModel(graph) for graph in graphs.values()]
    latencies = {
        batch: median_latencies([(model, repeat(images, batch)) for model in models])
        for batch in batches
    }
    return tuple(
        Speed(
            precision=precision,
            bytes=len(graph),
            hardware=describe_processor(),
            **{f"batch_{batch}_ms": latencies[batch][index] for batch in batches},
        )
        for index, (precision, graph) in enumerate(graphs.items())
    )


def median_latencies(runs: Sequence[tuple[OnnxModel, NDArray[np.uint8]]]) -> list[float]:
    """Median milliseconds of each model for its batch.

    The models take turns, so that whatever else the machine does slows them all alike.
    """
    for model, images in runs:
        model(images)  # the first run of a shape plans its memory
    rounds: list[list[float]] = []
    start = perf_counter()
    while len(rounds) < ROUNDS and (len(rounds) < LEAST_ROUNDS or perf_counter() - start < BUDGET):
        rounds.append([_milliseconds(model, images) for model, images in runs])
    medians: list[float] = np.median(rounds, axis=0).round(3).tolist()
    return medians


def repeat(images: NDArray[np.uint8], batch: int) -> NDArray[np.uint8]:
    """A batch of that size: images from the first on, and again where there are too few."""
    return images[np.resize(np.arange(len(images)), batch)]


def describe_speed(speeds: Iterable[Speed]) -> str:
    """A table of a row per precision."""
    lines = ["precision       size  1 image  64 images"]
    for speed in speeds:
        many = "-" if speed.batch_64_ms is None else f"{speed.batch_64_ms:.1f} ms"
        size = f"{speed.bytes / 1e6:.2f} MB"
        lines.append(f"{speed.precision:9} {size:>10} {speed.batch_1_ms:5.2f} ms {many:>10}")
    return "\n".join(lines)


def _milliseconds(model: OnnxModel, images: NDArray[np.uint8]) -> float:
    start = perf_counter()
    model(images)
    return 1000 * (perf_counter() - start)
