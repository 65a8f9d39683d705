"""This service beside bare ONNX Runtime, side by side in one run.

    make bench            (or: python -m benchmarks.throughput [--rounds N] [--seconds S])

Bare is a loop in one process, without a server: decode in as many threads as there are processors,
run in batches of 32. The service gets the same files over loopback from a C client (h2load) on the
same processors: one image a request (unary), streams of 64 one-image messages (streamed), many
images a request (multi-image). The prototype and the uncounted service show what checks and metrics
cost. Rounds are interleaved; figures are medians of the rounds. The network is untrained.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import struct
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import grpc
import numpy as np
import onnxruntime as ort
from PIL import Image

from benchmarks.bundles import write_small_cnn
from benchmarks.processes import (
    METHOD,
    Server,
    convoy_serve,
    h2load,
    prototype,
    require_h2load,
)
from convoy.bundle import Bundle
from convoy.imaging import decode
from convoy.v1 import image_classifier_pb2 as pb
from service.metrics import Metrics

ROOT = Path(__file__).resolve().parent.parent
PHOTO = ROOT / "examples" / "photos" / "cat.jpg"
BARE_BATCH = 32
STREAM_MESSAGES = 64
YARDSTICKS = ("prototype, unary", "uncounted, unary")


@dataclass(frozen=True)
class Workload:
    """What is sent, and how much of it at once."""

    name: str
    image: pb.Image
    in_flight: int
    images_per_request: int
    multi_in_flight: int


@dataclass(frozen=True)
class Contender:
    """One way to classify: `run(images)` returns wall seconds and processor seconds."""

    name: str
    run: Callable[[int], tuple[float, float]]


def workloads() -> list[Workload]:
    """Raw 32 x 32 pixels, a 500-pixel photo, a 12-megapixel photo."""
    data = np.random.default_rng(0).integers(0, 256, 32 * 32 * 3, np.uint8).tobytes()
    raw = pb.Image(pixels=pb.Pixels(height=32, width=32, channels=3, data=data))
    small, large = photo(500, 375), photo(4000, 3000)
    return [
        Workload("raw 32x32", raw, 64, 32, 4),
        Workload(f"JPEG 500x375, {len(small) / 1e3:.0f} kB", pb.Image(encoded=small), 64, 32, 4),
        Workload(f"JPEG 4000x3000, {len(large) / 1e6:.1f} MB", pb.Image(encoded=large), 8, 4, 2),
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


def bare(bundle: Bundle, image: pb.Image) -> Contender:
    """ONNX Runtime in a loop: what no server can beat on these processors."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    session = ort.InferenceSession(bundle.model_path, options, providers=["CPUExecutionProvider"])
    spec = bundle.manifest.input

    def pixels(_: int) -> np.ndarray:
        if image.WhichOneof("content") == "encoded":
            return decode(image.encoded, spec)
        return np.frombuffer(image.pixels.data, np.uint8).reshape(spec.shape)

    def run(images: int) -> tuple[float, float]:
        start, cpu = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for first in range(0, images, BARE_BATCH):
                batch = range(first, min(first + BARE_BATCH, images))
                rows = list((pool.map if image.encoded else map)(pixels, batch))
                session.run(None, {"images": np.stack(rows)})
        return time.perf_counter() - start, time.process_time() - cpu

    return Contender("bare", run)


def served(
    name: str, server: Server, body: Path, method: str, images: int, in_flight: int
) -> Contender:
    """A server under h2load; `body` holds one request (or stream) of `images` images."""
    clients = min(4, in_flight)

    def run(total: int) -> tuple[float, float]:
        requests = max(clients, -(-total // images))
        before, cpu = server.answered(), server.cpu_seconds()
        seconds = h2load(
            server, method, body, requests=requests, clients=clients, streams=in_flight // clients
        )
        spent, after = server.cpu_seconds() - cpu, server.answered()
        if before is not None and after is not None and after - before != requests * images:
            raise SystemExit(f"{name}: {after - before} images answered of {requests * images}")
        share = total / (requests * images)
        return seconds * share, spent * share

    return Contender(name, run)


def framed(folder: Path, *messages: pb.ClassifyRequest) -> Path:
    """The body of one HTTP/2 stream: gRPC's five-byte prefix and the message, for each."""
    parts = [message.SerializeToString() for message in messages]
    file = folder / f"{len(list(folder.iterdir()))}.bin"
    file.write_bytes(b"".join(struct.pack(">BI", 0, len(part)) + part for part in parts))
    return file


def require_answers(servers: Iterable[Server], request: pb.ClassifyRequest) -> None:
    """Stop where one does not answer: the load generator reads no gRPC status."""
    for server in servers:
        with grpc.insecure_channel(server.grpc_address) as channel:
            reply = channel.unary_unary(METHOD + "Classify")(request.SerializeToString())
        if len(pb.ClassifyResponse.FromString(reply).predictions) != len(request.images):
            raise SystemExit(f"{server.grpc_address} does not answer")


def contenders(
    load: Workload, bundle: Bundle, ours: Server, plain: Server, uncounted: Server, folder: Path
) -> list[Contender]:
    """Everything that is measured on one workload."""
    one = pb.ClassifyRequest(images=[load.image])
    many = pb.ClassifyRequest(images=[load.image] * load.images_per_request)
    unary, multi = framed(folder, one), framed(folder, many)
    messages = STREAM_MESSAGES if load.in_flight > 8 else 8
    stream = framed(folder, *[one] * messages)
    streams = max(1, load.in_flight // 16)
    found = [
        bare(bundle, load.image),
        served("unary", ours, unary, "Classify", 1, load.in_flight),
        served("streamed", ours, stream, "ClassifyStream", messages, streams),
        served(
            f"multi-image ({load.images_per_request})",
            *(ours, multi, "Classify", load.images_per_request, load.multi_in_flight),
        ),
    ]
    if load.image.WhichOneof("content") == "pixels":
        found += [
            served(YARDSTICKS[0], plain, unary, "Classify", 1, load.in_flight),
            served(YARDSTICKS[1], uncounted, unary, "Classify", 1, load.in_flight),
        ]
    return found


def measure(found: list[Contender], rounds: int, seconds: float) -> list[dict[str, object]]:
    """Interleaved rounds of about `seconds` each; medians, and the range."""
    sizes, rates, costs = {}, defaultdict(list), defaultdict(list)
    for one in found:
        one.run(16)  # connections, thread pools, caches
        wall, _ = one.run(64)
        wall, _ = one.run(probe := max(64, int(64 / wall * 0.5)))
        sizes[one.name] = max(32, int(probe / wall * seconds))
    for number in range(rounds):
        # Back and forth, so that nobody always follows the same neighbour.
        for one in found if number % 2 else found[::-1]:
            wall, cpu = one.run(sizes[one.name])
            rates[one.name].append(sizes[one.name] / wall)
            costs[one.name].append(cpu / sizes[one.name] * 1e6)
    return [
        {
            "contender": one.name,
            "images_per_second": statistics.median(rates[one.name]),
            "range": [min(rates[one.name]), max(rates[one.name])],
            "of_bare": _ratio(rates[one.name], rates[found[0].name]),
            "cpu_us_per_image": statistics.median(costs[one.name]),
            "unary_to_it": _ratio(rates["unary"], rates[one.name]),
            "unary_cpu_to_its": _ratio(costs["unary"], costs[one.name]),
        }
        for one in found
    ]


def _ratio(ours: list[float], theirs: list[float]) -> float:
    """Median of the ratios within each round: neighbours of a round share its noise."""
    return statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))


def hardware() -> str:
    """The processor and the software that decide the figures."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    libraries = {name: version(name) for name in ("grpcio", "protobuf", "pillow", "uvloop")}
    libraries["onnxruntime"] = ort.__version__
    named = ", ".join(f"{name} {number}" for name, number in libraries.items())
    return f"{os.cpu_count()} cores of {model}, Python {platform.python_version()}, {named}"


def counting_us(calls: int = 100_000) -> float:
    """Microseconds that counting one unary call takes, by the service's own counters."""
    metrics = Metrics()
    method = metrics.method("unary", "service", "method")
    model = metrics.model("model", 1, precision="fp32", provider="cpu")
    start = time.perf_counter()
    for _ in range(calls):
        method.started += 1
        metrics.in_flight += 1
        for stage in ("queue", "compute", "answer"):
            model.stages[stage].observe(0.001)
        model.batch_size.observe(1)
        model.images += 1
        metrics.in_flight -= 1
        method.finish("OK", 0.001)
    return (time.perf_counter() - start) / calls * 1e6


def table(results: dict[str, list[dict[str, object]]]) -> str:
    """The results as Markdown."""
    lines = [
        "| workload | | images/s | range | of bare | server CPU, us an image |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for name, rows in results.items():
        for row in rows:
            low, high = row["range"]  # type: ignore[misc]
            lines.append(
                f"| {name} | {row['contender']} | {row['images_per_second']:,.0f} "
                f"| {low:,.0f}-{high:,.0f} | {row['of_bare']:.2f} "
                f"| {row['cpu_us_per_image']:,.0f} |"
            )
    return "\n".join(lines)


def ratios(results: dict[str, list[dict[str, object]]]) -> str:
    """What checks and metrics cost: unary calls beside the prototype's and the uncounted."""
    return "\n".join(
        f"{name}: unary is {row['unary_to_it']:.2f} times as fast as {row['contender']}, "
        f"for {row['unary_cpu_to_its']:.2f} times the server CPU"
        for name, rows in results.items()
        for row in rows
        if row["contender"] in YARDSTICKS
    )


def main() -> None:
    """Measure, print the table, write it as Markdown and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--seconds", type=float, default=0.7, help="of each measurement, about")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    require_h2load()
    results = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bodies = folder / "bodies"
        bodies.mkdir()
        bundle = write_small_cnn(folder / "models")
        servers = (
            stack.enter_context(convoy_serve(folder / "models")),
            stack.enter_context(prototype(bundle.model_path)),
            stack.enter_context(convoy_serve(folder / "models", module="benchmarks.uncounted")),
        )
        loads = workloads()
        raw = pb.ClassifyRequest(images=[loads[0].image])
        require_answers(servers, raw)
        for load in loads:
            found = contenders(load, bundle, *servers, bodies)
            results[load.name] = measure(found, options.rounds, options.seconds)
            print(table({load.name: results[load.name]}), flush=True)
        require_answers(servers, raw)
    now = datetime.now(UTC)
    text = (
        f"{now:%Y-%m-%d}, {hardware()}; {options.rounds} interleaved rounds\n\n{table(results)}\n\n"
        f"{ratios(results)}\nCounting one call takes {counting_us():.1f} us.\n"
    )
    options.out.mkdir(parents=True, exist_ok=True)
    name = f"{now:%Y-%m-%d}-cpu-throughput"
    (options.out / f"{name}.md").write_text(text)
    (options.out / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    print(f"\n{text}\nwritten to {options.out / name}.md and .json")


if __name__ == "__main__":
    main()
