"""Start the service on the shipped model, classify the photos beside this file, show the metrics.

Run it with `make demo`. Both ports are free ones of 127.0.0.1; nothing is left running.
"""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from service.errors import StartupError
from service.ready import wait_until_ready

HERE = Path(__file__).resolve().parent
MODELS = HERE.parent / "models"
PHOTOS = HERE / "photos"


@contextmanager
def service() -> Iterator[tuple[str, str]]:
    """Run `convoy-serve` and yield its gRPC and HTTP addresses; drain it at the end."""
    command = [sys.executable, "-m", "service.cli", "--models", str(MODELS)]
    command += ["--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=HERE.parent) as process:
        assert process.stderr is not None
        try:
            *before, ready = wait_until_ready(process.stderr)
            for event in before:
                if event["event"] == "running_on_cpu":
                    print(f"note: running on the CPU: {event['reason']}")
            print(f"ready in {ready['seconds']} s: {ready['models']} on {ready['grpc_address']}\n")
            yield ready["grpc_address"], ready["http_address"]
        except StartupError as error:
            raise SystemExit(f"the service did not start: {error}") from None
        finally:
            process.terminate()
            process.stderr.read()
    print(f"\nservice drained, exit code {process.returncode}")


def classify(server: str) -> None:
    """What a person would type."""
    command = [sys.executable, "-m", "convoy.cli", "classify", "examples/photos"]
    print("$ convoy classify examples/photos")
    subprocess.run([*command, "--server", server], check=True, cwd=HERE.parent)


def metrics(http: str) -> None:
    """A few of the figures that Prometheus would scrape."""
    with urllib.request.urlopen(f"http://{http}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }

    def total(name: str, *labels: str) -> float:
        return sum(
            value for key, value in samples.items() if key[0] == name and set(labels) <= set(key)
        )

    print(f"\n$ curl http://{http}/metrics   (the gist of {len(samples)} series)")
    print(f"  requests answered  {total('grpc_server_handled_total', 'OK', 'Classify'):.0f}")
    print(f"  images answered    {total('convoy_images_total'):.0f}")
    batches = total("convoy_batch_size_count")
    mean = total("convoy_batch_size_sum") / batches
    print(f"  batches            {batches:.0f}, mean {mean:.1f} images")
    for stage in ("decode", "queue", "compute", "answer"):
        mean = total("convoy_stage_seconds_sum", stage) / total("convoy_stage_seconds_count", stage)
        print(f"  {stage:<10} mean    {mean * 1000:.2f} ms a request")
    print(f"  resident memory    {total('process_resident_memory_bytes') / 2**20:.0f} MiB")


def main() -> None:
    """The whole demo."""
    with service() as (grpc_address, http_address):
        classify(grpc_address)
        metrics(http_address)


if __name__ == "__main__":
    main()
