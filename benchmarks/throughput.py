"""This service beside bare ONNX Runtime, side by side in one run.

    make bench            (or: python -m benchmarks.throughput [--rounds N] [--seconds S])

Bare is a loop in one process, without a server: decode in as many threads as there are processors,
run in batches of 32. The service gets the same files over loopback from a C client (h2load) on the
same processors: one image a request (unary), streams of 64 one-image messages (streamed), many
images a request (multi-image). The prototype is the least that batches, the interpreted service
shows what compiling brings, plain Pillow what the decoder saves. Rounds are interleaved; figures
are medians. Then unary calls are measured by the number in flight, and drawn. The networks are
untrained.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import grpc

from benchmarks.bundles import write_bundles
from benchmarks.curve import draw, measure_curve
from benchmarks.h2load import framed, h2load, require_h2load
from benchmarks.processes import METHOD, Server, convoy_serve, heed_sigterm, prototype
from benchmarks.reports import RESULTS, back_and_forth, median_ratio, write
from benchmarks.workloads import Contender, Workload, bare, hardware, plain_pillow, workloads
from convoy.bundle import Bundle
from convoy.v1 import image_classifier_pb2 as pb

STREAM_MESSAGES = 64
LARGE = 10**6  # bytes of a photo where it matters how it is decoded
SMALL = "small-cnn"
YARDSTICKS = ("prototype, unary", "interpreted, unary")


def served(
    name: str, server: Server, body: Path, method: str, images: int, in_flight: int
) -> Contender:
    """A server under h2load; `body` holds one request (or stream) of `images` images."""
    url = f"http://{server.grpc_address}{METHOD}{method}"

    def run(total: int) -> tuple[float, float]:
        requests = max(in_flight, -(-total // images))
        before, cpu = server.answered(), server.cpu_seconds()
        load = h2load(url, body, requests=requests, in_flight=in_flight)
        spent, after = server.cpu_seconds() - cpu, server.answered()
        if before is not None and after is not None and after - before != requests * images:
            raise SystemExit(f"{name}: {after - before} images answered of {requests * images}")
        share = total / (requests * images)
        return load.seconds * share, spent * share

    return Contender(name, run)


def require_answers(servers: Iterable[Server], request: pb.ClassifyRequest) -> None:
    """Stop where one does not answer: the load generator reads no gRPC status."""
    for server in servers:
        with grpc.insecure_channel(server.grpc_address) as channel:
            reply = channel.unary_unary(METHOD + "Classify")(request.SerializeToString())
        if len(pb.ClassifyResponse.FromString(reply).predictions) != len(request.images):
            raise SystemExit(f"{server.grpc_address} does not answer")


def contenders(
    load: Workload, bundle: Bundle, ours: Server, plain: Server, interpreted: Server, folder: Path
) -> list[Contender]:
    """Everything that is measured on one workload."""
    messages = STREAM_MESSAGES if load.in_flight > 8 else 8
    bodies = {
        "unary": framed(load.request()),
        "stream": framed(*[load.request()] * messages),
        "multi": framed(load.request(load.images_per_request)),
    }
    files = {name: folder / f"{load.name}, {name}".replace("/", " ") for name in bodies}
    for name, body in bodies.items():
        files[name].write_bytes(body)
    unary = (files["unary"], "Classify", 1, load.in_flight)
    found = [
        bare(bundle, load),
        served("unary", ours, *unary),
        served(
            "streamed",
            *(ours, files["stream"], "ClassifyStream", messages, max(1, load.in_flight // 16)),
        ),
        served(
            f"multi-image ({load.images_per_request})",
            *(ours, files["multi"], "Classify", load.images_per_request, load.multi_in_flight),
        ),
    ]
    if len(load.image.encoded) > LARGE:
        found.append(bare(bundle, load, "bare, plain Pillow", plain_pillow))
    if not load.encoded:
        found.append(served(YARDSTICKS[0], plain, *unary))
    if load.network == SMALL:
        found.append(served(YARDSTICKS[1], interpreted, *unary))
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
        for one in back_and_forth(found, number):
            wall, cpu = one.run(sizes[one.name])
            rates[one.name].append(sizes[one.name] / wall)
            costs[one.name].append(cpu / sizes[one.name] * 1e6)
    return [
        {
            "contender": one.name,
            "images_per_second": statistics.median(rates[one.name]),
            "rounds": rates[one.name],
            "of_bare": median_ratio(rates[one.name], rates[found[0].name]),
            "cpu_us_per_image": statistics.median(costs[one.name]),
            "unary_to_it": median_ratio(rates["unary"], rates[one.name]),
            "unary_cpu_to_its": median_ratio(costs["unary"], costs[one.name]),
        }
        for one in found
    ]


def table(results: dict[str, list[dict[str, object]]]) -> str:
    """The results as Markdown."""
    lines = [
        "| workload | | images/s | range | of bare | server CPU, us an image |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for name, rows in results.items():
        for row in rows:
            rates: list[float] = row["rounds"]  # type: ignore[assignment]
            lines.append(
                f"| {name} | {row['contender']} | {row['images_per_second']:,.0f} "
                f"| {min(rates):,.0f}-{max(rates):,.0f} | {row['of_bare']:.2f} "
                f"| {row['cpu_us_per_image']:,.0f} |"
            )
    return "\n".join(lines)


def ratios(results: dict[str, list[dict[str, object]]]) -> str:
    """Unary calls beside the prototype's, and beside those of the interpreted service."""
    return "\n".join(
        f"{name}: unary is {row['unary_to_it']:.2f} times as fast as {row['contender']}, "
        f"for {row['unary_cpu_to_its']:.2f} times the server CPU"
        for name, rows in results.items()
        for row in rows
        if row["contender"] in YARDSTICKS
    )


def main() -> None:
    """Measure, print the table, write it as Markdown and JSON, draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=0.7, help="of each measurement, about")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("service", nargs="*", help="options of convoy-serve, after --")
    options = parser.parse_args()
    heed_sigterm()
    require_h2load()
    results, curves = {}, {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        models, arguments = folder / "models", options.service
        bundles = write_bundles(models)
        ours = stack.enter_context(convoy_serve(models, *arguments))
        plain = stack.enter_context(prototype(bundles[SMALL].model_path))
        interpreted = stack.enter_context(convoy_serve(models, *arguments, compiled=False))
        loads = workloads()
        require_answers((ours, plain, interpreted), loads[0].request())
        for load in loads:
            found = contenders(load, bundles[load.network], ours, plain, interpreted, folder)
            results[load.name] = measure(found, options.rounds, options.seconds)
            curves[load.name] = measure_curve(ours, load, folder, options.seconds)
            print(table({load.name: results[load.name]}), flush=True)
        require_answers((ours, plain, interpreted), loads[0].request())
    text = f"{options.rounds} interleaved rounds\n\n{table(results)}\n\n{ratios(results)}"
    points = {name: [asdict(point) for point in curve] for name, curve in curves.items()}
    path = write(options.out, "cpu-throughput", text, {"contenders": results, "curves": points})
    bare_rates = {name: rows[0]["images_per_second"] for name, rows in results.items()}
    draw(curves, bare_rates, path.with_suffix(".png"), hardware())


if __name__ == "__main__":
    main()
