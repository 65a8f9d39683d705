"""Bundles of untrained networks: as fast as trained ones, but their answers mean nothing."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from convoy.bundle import Bundle, Golden, Manifest, Provenance, write_bundle
from convoy.imaging import InputSpec, decode


class Preprocessed(nn.Module):
    """uint8 [N, H, W, C] to probabilities [N, K]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scale, reorder to NCHW, classify."""
        return self.network(images.permute(0, 3, 1, 2).float() / 127.5 - 1.0).softmax(1)


def small_cnn() -> nn.Module:
    """Conv16-Conv32-Conv64-Linear128 on 32 x 32: the usual yardstick for a server's own cost."""
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


def write_small_cnn(models: Path) -> Bundle:
    """Write `small-cnn/1` into the folder `models`."""
    import onnxruntime as ort

    torch.manual_seed(0)
    spec = InputSpec(height=32, width=32, channels=3)
    buffer = io.BytesIO()
    torch.onnx.export(
        Preprocessed(small_cnn()).eval(),
        (torch.zeros(2, 32, 32, 3, dtype=torch.uint8),),
        buffer,
        dynamo=False,
        input_names=["images"],
        output_names=["probabilities"],
        dynamic_axes={"images": {0: "N"}, "probabilities": {0: "N"}},
    )
    model = buffer.getvalue()
    pixels = np.random.default_rng(0).integers(0, 256, (4, *spec.shape), np.uint8)
    encoded = tuple(_png(one) for one in pixels)
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    golden = Golden(
        encoded,
        np.stack([decode(one, spec) for one in encoded]),
        session.run(None, {"images": pixels})[0],
    )
    manifest = Manifest(
        name="small-cnn",
        version=1,
        task="single-label",
        labels=tuple(f"class-{k}" for k in range(10)),
        input=spec,
        precision="fp32",
        opset=17,
        golden_tolerance=0.005,
        files={},
        training=Provenance(dataset="none: untrained", created="2026-01-01T00:00:00Z", hardware=""),
    )
    return write_bundle(models, manifest, {"model.onnx": model, "golden.npz": golden.to_bytes()})


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
