"""What is sent in every benchmark, to which network, and the loop that does it without a server."""

from __future__ import annotations

import io
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

from benchmarks.processes import ROOT
from convoy.bundle import Bundle
from convoy.imaging import InputSpec, decode
from convoy.v1 import image_classifier_pb2 as pb

PHOTO = ROOT / "examples" / "photos" / "cat.jpg"
BARE_BATCH = 32
# How often, in turn, and for how long each way to run the loop is tried.
PROBES, PROBE_SECONDS = 5, 0.5

Decoder = Callable[[bytes, InputSpec], NDArray[np.uint8]]


@dataclass(frozen=True)
class Workload:
    """One image, the network that classifies it, and how many requests are under way at once."""

    name: str
    network: str
    image: pb.Image
    in_flight: int
    images_per_request: int
    multi_in_flight: int

    def request(self, images: int = 1) -> pb.ClassifyRequest:
        """The image so many times."""
        return pb.ClassifyRequest(model=self.network, images=[self.image] * images)

    @property
    def encoded(self) -> bool:
        """Whether the image has to be decoded."""
        return self.image.WhichOneof("content") == "encoded"

    def pixels(self, spec: InputSpec, decoder: Decoder = decode) -> NDArray[np.uint8]:
        """The image as the network takes it, uint8 [H, W, C]."""
        if self.encoded:
            return decoder(self.image.encoded, spec)
        return np.frombuffer(self.image.pixels.data, np.uint8).reshape(spec.shape)


@dataclass(frozen=True)
class Contender:
    """One way to classify: `run(images)` returns wall seconds and processor seconds."""

    name: str
    run: Callable[[int], tuple[float, float]]


def workloads() -> list[Workload]:
    """Raw pixels and photos of 500 pixels and 12 megapixels, to a small network and a ResNet."""
    data = np.random.default_rng(0).integers(0, 256, 32 * 32 * 3, np.uint8).tobytes()
    raw = pb.Image(pixels=pb.Pixels(height=32, width=32, channels=3, data=data))
    small, large = pb.Image(encoded=photo(500, 375)), pb.Image(encoded=photo(4000, 3000))
    return [
        Workload("raw 32x32, small CNN", "small-cnn", raw, 64, 32, 4),
        Workload("JPEG 500x375, small CNN", "small-cnn", small, 64, 32, 4),
        Workload("JPEG 500x375, ResNet-18", "resnet18", small, 16, 16, 2),
        Workload("JPEG 500x375, ResNet-18 int8", "resnet18-int8", small, 16, 16, 2),
        Workload("JPEG 4000x3000, ResNet-18", "resnet18", large, 8, 4, 2),
    ]


def photo(width: int, height: int) -> bytes:
    """A photo of that size as JPEG; a scaled-up one gets grain, to weigh what a real one does."""
    image = Image.open(PHOTO).convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(image, np.int16)
    if width > 2000:
        grain = np.random.default_rng(0).normal(0, 4, pixels.shape[:2])[..., None]
        pixels = pixels + grain.astype(np.int16)
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def plain_pillow(data: bytes, spec: InputSpec) -> NDArray[np.uint8]:
    """What one writes first: decode all of it, then shrink it, bicubic and whole."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB").resize((spec.width, spec.height)))


def session(model: Path, *, spin: bool = True) -> ort.InferenceSession:
    """ONNX Runtime on all processors; threads that spin find the next batch sooner."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def bare(
    bundle: Bundle, load: Workload, name: str = "bare", decoder: Decoder = decode
) -> Contender:
    """ONNX Runtime in a loop: what no server with the same decoder can beat on these processors."""
    spec = bundle.manifest.input

    def run(images: int, network: ort.InferenceSession) -> tuple[float, float]:
        start, cpu = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            apply = pool.map if load.encoded else map
            for first in range(0, images, BARE_BATCH):
                count = min(BARE_BATCH, images - first)
                rows = list(apply(load.pixels, [spec] * count, [decoder] * count))
                network.run(None, {"images": np.stack(rows)})
        return time.perf_counter() - start, time.process_time() - cpu

    # Threads that spin take the processors from the decoders: the faster of both ways counts.
    networks = [session(bundle.model_path, spin=spin) for spin in (False, True)]
    first = [run(2 * BARE_BATCH, network)[0] for network in networks]  # memory is laid out
    probe = 2 * BARE_BATCH * max(1, int(PROBE_SECONDS / min(first)))
    tries = [[run(probe, network)[0] for network in networks] for _ in range(PROBES)]
    seconds = [median(times) for times in zip(*tries, strict=True)]
    fastest = networks[seconds.index(min(seconds))]
    return Contender(name, lambda images: run(images, fastest))


def hardware() -> str:
    """The processor and the software that decide the figures."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    facts = {key.strip(): value.strip() for key, _, value in (one.partition(":") for one in lines)}
    model = facts.get("model name", "unknown processor")
    if "cpu family" in facts:  # a virtual machine's name of a model tells no generation
        model += f" (family {facts['cpu family']}, model {facts['model']})"
    libraries = {name: version(name) for name in ("grpcio", "protobuf", "pillow", "uvloop")}
    libraries["onnxruntime"] = ort.__version__
    named = ", ".join(f"{name} {number}" for name, number in libraries.items())
    return f"{os.cpu_count()} cores of {model}, Python {platform.python_version()}, {named}"
