"""Bundles of untrained networks: as fast as trained ones, but their answers mean nothing."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from convoy.bundle import Bundle, Golden, Manifest, Provenance, write_bundle
from convoy.imaging import InputSpec, decode

NETWORKS = ("small-cnn", "resnet18", "resnet18-int8")


class Preprocessed(nn.Module):
    """uint8 [N, H, W, C] to probabilities [N, K]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scale, reorder to NCHW, classify."""
        return self.network(images.float().permute(0, 3, 1, 2) / 127.5 - 1.0).softmax(1)


def small_cnn() -> nn.Module:
    """Conv16-Conv32-Conv64-Linear128 on 32 x 32: the usual yardstick for a server's own cost."""
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


def write_bundles(models: Path, names: Iterable[str] = NETWORKS) -> dict[str, Bundle]:
    """Write networks into the folder `models`; returns their bundles by name."""
    return {name: _write(models, name, *_network(name)) for name in names}


def _network(name: str) -> tuple[int, bytes]:
    """Side of the input in pixels, and the graph."""
    if name == "small-cnn":
        return 32, _graph(small_cnn(), 32)
    if name == "resnet50-fp16":
        from training.precision import to_fp16

        return 224, to_fp16(_graph(torchvision.models.resnet50(weights=None), 224))
    resnet = _graph(torchvision.models.resnet18(weights=None), 224)
    if name == "resnet18":
        return 224, resnet
    from training.precision import to_int8

    return 224, to_int8(resnet, _noise(224))


def _graph(network: nn.Module, side: int) -> bytes:
    torch.manual_seed(0)
    for layer in network.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    buffer = io.BytesIO()
    torch.onnx.export(
        Preprocessed(network).eval(),
        (torch.zeros(2, side, side, 3, dtype=torch.uint8),),
        buffer,
        dynamo=False,
        input_names=["images"],
        output_names=["probabilities"],
        dynamic_axes={"images": {0: "N"}, "probabilities": {0: "N"}},
    )
    return buffer.getvalue()


def _write(models: Path, name: str, side: int, model: bytes) -> Bundle:
    spec = InputSpec(height=side, width=side, channels=3)
    encoded = tuple(_png(one) for one in _noise(side))
    pixels = np.stack([decode(one, spec) for one in encoded])
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    (answers,) = session.run(None, {"images": pixels})
    manifest = Manifest(
        name=name,
        version=1,
        task="single-label",
        labels=tuple(f"class-{k}" for k in range(answers.shape[1])),
        input=spec,
        precision=next((kind for kind in ("int8", "fp16") if name.endswith(kind)), "fp32"),
        opset=17,
        golden_tolerance=0.05 if name.endswith("int8") else 0.005,
        files={},
        training=Provenance(dataset="none: untrained", created="2026-01-01T00:00:00Z", hardware=""),
    )
    golden = Golden(encoded, pixels, answers).to_bytes()
    return write_bundle(models, manifest, {"model.onnx": model, "golden.npz": golden})


def _noise(side: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (4, side, side, 3), np.uint8)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
