"""The service on a GPU, beside ONNX Runtime in a loop and beside the decoder alone.

    make bench-gpu        (or: python -m benchmarks.gpu [--device cuda] [-- SERVICE OPTIONS])

Bare is a loop in one process, without a server: a batch is copied to the GPU, run from bound
buffers with the options that were measured to be best, and its answers are copied back, one after
the other; at the batch size that is fastest. The service runs with that batch size and gets raw
pixels, and photos of 500 pixels, over loopback from a C client (h2load) on the same processors. It
copies one batch while another computes, and so may be faster than bare. Rounds are interleaved;
figures are their medians. The network is an untrained ResNet-50 in fp16.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort

from benchmarks.bundles import write_bundles
from benchmarks.h2load import framed, require_h2load
from benchmarks.processes import Server, convoy_serve, heed_sigterm
from benchmarks.reports import RESULTS, write
from benchmarks.throughput import measure, require_answers, served, table
from benchmarks.workloads import Contender, Workload, photo
from convoy.bundle import Bundle
from convoy.imaging import decode
from convoy.processors import processor_count
from convoy.v1 import image_classifier_pb2 as pb
from service import cuda
from service.bound import Bucket
from service.devices import (
    CPU,
    CUDA,
    TENSORRT,
    Device,
    NoCudaError,
    Plan,
    provider_options,
    select_device,
)
from service.loading import find_plan
from service.settings import Settings

BATCHES = (16, 32, 64, 128, 256)
RAW_TARGET, PHOTO_TARGET = 0.90, 0.85
# As much as may be: a batch of 256 images of 224 x 224 is 39 MB, and their messages as much again.
QUEUE = ("--max-queue-size", "8192", "--max-queue-bytes", str(2**31 - 1))

Row = dict[str, object]


def loads(bundle: Bundle, in_flight: int, images_per_request: int) -> tuple[Workload, Workload]:
    """Raw pixels of the network's size, and photos of 500 pixels."""
    name, spec = bundle.manifest.name, bundle.manifest.input
    data = np.random.default_rng(0).integers(0, 256, spec.shape, np.uint8).tobytes()
    sides = {"height": spec.height, "width": spec.width, "channels": spec.channels}
    pixels = pb.Image(pixels=pb.Pixels(data=data, **sides))
    encoded = pb.Image(encoded=photo(500, 375))
    together = in_flight, images_per_request, max(2, in_flight // images_per_request)
    return (
        Workload("raw", name, pixels, *together),
        Workload("JPEG 500x375", name, encoded, *together),
    )


def bare(bundle: Bundle, device: Device, plan: Plan, batch: int) -> Contender:
    """ONNX Runtime in a loop: copy a batch to the device, run it, copy the answers back."""
    spec, classes = bundle.manifest.input, len(bundle.manifest.labels)
    providers = provider_options(device, plan)
    session = ort.InferenceSession(bundle.model_path, providers=providers, enable_fallback=0)
    bucket = Bucket(session, device, batch, spec.shape, classes)
    pixels = np.random.default_rng(0).integers(0, 256, (batch, *spec.shape), np.uint8)
    if device.provider != CPU:
        cuda.lock_pages(pixels)

    def run(images: int) -> tuple[float, float]:
        batches = -(-images // batch)
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(batches):
            bucket.run(pixels)
        share = images / (batches * batch)
        return share * (time.perf_counter() - start), share * (time.process_time() - cpu)

    return Contender("bare", run)


def fastest_batch(
    bundle: Bundle, device: Device, plan: Plan, batches: Sequence[int], seconds: float
) -> int:
    """The batch size at which bare answers most images a second."""
    rates = {}
    for batch in batches:
        run = bare(bundle, device, plan, batch).run
        run(3 * batch)  # memory, kernels, CUDA graphs
        wall, _ = run(3 * batch)
        count = max(batch, int(3 * batch / wall * seconds))
        rates[batch] = count / run(count)[0]
        print(f"bare, batches of {batch}: {rates[batch]:,.0f} images/s", flush=True)
    return max(rates, key=lambda batch: rates[batch])


def decoder(load: Workload, bundle: Bundle) -> Contender:
    """Decode on all processors, and do nothing else."""
    spec, threads = bundle.manifest.input, processor_count()

    def run(images: int) -> tuple[float, float]:
        start, cpu = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(lambda _: decode(load.image.encoded, spec), range(images)):
                pass
        return time.perf_counter() - start, time.process_time() - cpu

    return Contender("decode alone", run)


def ways(load: Workload, server: Server, folder: Path) -> list[Contender]:
    """The service with one image a request, and with many."""
    found = []
    for name, images, in_flight in (
        ("unary", 1, load.in_flight),
        ("multi-image", load.images_per_request, load.multi_in_flight),
    ):
        body = folder / f"{load.name} {name}".replace("/", " ")
        body.write_bytes(framed(load.request(images)))
        found.append(served(name, server, body, "Classify", images, in_flight))
    return found


def measure_all(
    bundle: Bundle,
    server: Server,
    contender: Contender,
    both: tuple[Workload, Workload],
    rounds: int,
    seconds: float,
) -> dict[str, list[Row]]:
    """Bare and the service on raw pixels; the decoder and the service on photos."""
    raw, photos = both
    with tempfile.TemporaryDirectory() as folder:
        require_answers([server], raw.request())
        found = {
            raw.name: measure([contender, *ways(raw, server, Path(folder))], rounds, seconds),
            photos.name: measure(
                [decoder(photos, bundle), *ways(photos, server, Path(folder))], rounds, seconds
            ),
        }
        require_answers([server], photos.request())
    return found


def verdicts(found: dict[str, list[Row]]) -> str:
    """The two targets: what was reached, and what bounds it."""
    (bare_raw, *raw), (decoding, *photos) = (
        [float(row["images_per_second"]) for row in rows]  # type: ignore[arg-type]
        for rows in found.values()
    )
    binds = "the decoder" if decoding < bare_raw else "the GPU"
    shares = max(raw) / bare_raw, max(photos) / min(bare_raw, decoding)
    lines = [
        f"Raw pixels: {shares[0]:.2f} of bare ({_judged(shares[0], RAW_TARGET)}).",
        f"Photos: {shares[1]:.2f} of what bare and the decoder allow, of which {binds} binds "
        f"({_judged(shares[1], PHOTO_TARGET)}).",
    ]
    return "\n".join(lines)


def _judged(share: float, target: float) -> str:
    return f"target {target:.2f}, {'met' if share >= target else 'missed'}"


def choose_device(wanted: str) -> Device:
    """The device of that name; the CPU is for trying this out: it runs the same code.

    Raises: NoCudaError.
    """
    return Device(CPU, bound=True) if wanted == "cpu" else select_device(wanted)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, write it as Markdown and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, tensorrt or cpu")
    parser.add_argument("--network", default="resnet50-fp16")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--in-flight", type=int, default=1024, help="images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement, about")
    parser.add_argument(
        "--interpreted", action="store_true", help="measure the service as it is, not compiled"
    )
    parser.add_argument("--check", action="store_true", help="only see whether there is a GPU")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("service", nargs="*", help="options of convoy-serve, after --")
    options = parser.parse_args(arguments)
    try:
        device = choose_device(options.device)
    except NoCudaError as error:
        print(f"bench-gpu: nothing measured: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    if options.check:
        return
    heed_sigterm()
    require_h2load()
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_bundles(Path(folder), [options.network])[options.network]
        text, found = compare(bundle, device, options)
    write(options.out, name_of(device), text, found)


def compare(
    bundle: Bundle, device: Device, options: argparse.Namespace
) -> tuple[str, dict[str, list[Row]]]:
    """Find the best plan and batch for bare, then measure the service beside it."""
    # The yardstick is CUDA, where the service runs on TensorRT too.
    yardstick = device if device.provider == CPU else Device(CUDA, device.index, bound=True)
    golden, most = bundle.golden(), max(options.batches)
    if device.provider != CPU:
        cuda.load_libraries(tensorrt=False)
    plan = find_plan(bundle, golden, yardstick, Settings(max_batch_size=most), beside=False)
    batch = fastest_batch(bundle, yardstick, plan, options.batches, options.seconds / 4)
    # As the service will have it: the best plan is another for another size.
    plan = find_plan(bundle, golden, yardstick, Settings(max_batch_size=batch), beside=False)
    contender = bare(bundle, yardstick, plan, batch)
    both = loads(bundle, options.in_flight, min(32, batch))
    models, told = bundle.path.parents[1], ("--device", options.device, *QUEUE)
    told = (*told, "--max-batch-size", str(batch), *options.service)
    with convoy_serve(models, *told, compiled=not options.interpreted) as server:
        found = measure_all(bundle, server, contender, both, options.rounds, options.seconds)
    text = (
        f"{describe(device)}; bare: batches of {batch}, {plan}, copied and computed one after the "
        f"other, where the service does both at once; {options.rounds} interleaved "
        f"rounds; {options.in_flight} images in flight\n\n{table(found)}\n\n{verdicts(found)}"
    )
    return text, found


def describe(device: Device) -> str:
    """The device in words."""
    if device.provider == CPU:
        return "the CPU provider"
    gpu = cuda.describe(device.index)
    return f"{gpu.name}, driver for CUDA {gpu.driver // 1000}.{gpu.driver % 1000 // 10}"


def name_of(device: Device) -> str:
    """The device as a part of a file's name."""
    name = "cpu-bound" if device.provider == CPU else cuda.describe(device.index).name
    kind = "-tensorrt" if device.provider == TENSORRT else ""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") + kind


if __name__ == "__main__":
    main()
