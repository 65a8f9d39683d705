"""docs/protocol.md says all that the .proto and the service say, and its program runs as it is."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from convoy.v1 import image_classifier_pb2 as pb
from convoy.v1 import image_classifier_pb2_grpc as rpc
from service.settings import Settings
from service.status import CODES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text()


def test_every_method_and_message_is_on_the_page() -> None:
    methods = [method.name for method in pb.DESCRIPTOR.services_by_name["ImageClassifier"].methods]
    missing = [
        name for name in [*methods, *pb.DESCRIPTOR.message_types_by_name] if name not in PAGE
    ]
    assert methods
    assert not missing


def test_every_status_code_of_the_service_is_on_the_page() -> None:
    missing = [code.name for code in CODES.values() if f"`{code.name}`" not in PAGE]
    assert not missing


@pytest.mark.parametrize(
    ("setting", "written"),
    [
        ("max_images_per_request", "256"),
        ("max_image_bytes", "16 MiB"),
        ("max_image_pixels", "50 million"),
        ("max_message_bytes", "64 MiB"),
        ("max_queue_size", "1024"),
        ("max_queue_bytes", "256 MiB"),
    ],
)
def test_the_limits_on_the_page_are_the_defaults(setting: str, written: str) -> None:
    number, _, unit = written.partition(" ")
    factor = {"": 1, "MiB": 2**20, "million": 1_000_000}[unit]
    assert Settings.model_fields[setting].default == int(number) * factor
    assert re.search(rf"\| {written} \| `{setting}` \|", PAGE)


class Echo(rpc.ImageClassifierServicer):
    """Answers with the bytes it got as the label; refuses what is empty."""

    def Classify(
        self, request: pb.ClassifyRequest, context: grpc.ServicerContext
    ) -> pb.ClassifyResponse:
        if not request.images[0].encoded:
            context.set_trailing_metadata((("grpc-retry-pushback-ms", "25"),))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        label = request.images[0].encoded.decode()
        best = pb.ClassScore(label=label, probability=0.5)
        return pb.ClassifyResponse(
            model="echo", version=2, predictions=[pb.Prediction(classes=[best])]
        )


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"cat", "cat 50.0% (echo 2)"), (b"", "RESOURCE_EXHAUSTED: full (retry after 25 ms)")],
)
def test_the_program_on_the_page_runs(tmp_path: Path, content: bytes, said: str) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    photo = tmp_path / "photo"
    photo.write_bytes(content)
    server = grpc.server(ThreadPoolExecutor(1))
    rpc.add_ImageClassifierServicer_to_server(Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    command = [sys.executable, "-c", program, f"127.0.0.1:{port}", str(photo)]
    result = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    server.stop(0).wait()
    assert said in result.stdout + result.stderr
