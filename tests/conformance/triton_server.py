"""A real tritonserver with the bundles of the tests."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from benchmarks.peers import environments, triton
from benchmarks.processes import PATIENCE, free_port, started, wait_for_port
from service.oip import grpc_service_pb2 as pb
from service.oip import grpc_service_pb2_grpc as rpc
from tests.bundles import COLOURS

MODEL = Path(__file__).parent / "triton_model.py"
PIXELS = "max_batch_size: 32 dynamic_batching { }", "images", "TYPE_UINT8", "[32, 32, 3]", "[3]"
# Without the dimension of batches, so that the shape is the same as here: [N].
FILES = "max_batch_size: 0", "encoded_images", "TYPE_STRING", "[-1]", "[-1, 3]"


def python() -> Path | None:
    """The interpreter of the environment that has Triton, if it has been made."""
    return environments.installed(triton.NAME, triton.PACKAGES)


@contextmanager
def triton_server(bundles: Path) -> Iterator[str]:
    """Serve the models `tiny` and `files` of a folder of bundles; yields HOST:PORT."""
    interpreter, port = python(), free_port()
    assert interpreter is not None
    # A short path: it becomes part of the names of sockets.
    with tempfile.TemporaryDirectory(prefix="triton") as name:
        folder = Path(name)
        _lay_out(folder / "models" / "tiny", bundles / "tiny", *PIXELS)
        _lay_out(folder / "models" / "files", bundles / "files", *FILES)
        environment = os.environ | triton.libraries(interpreter)
        environment |= {"PATH": f"{interpreter.parent}:{os.environ['PATH']}"}
        with (
            (folder / "log").open("w") as log,
            started(
                triton.command(interpreter, folder, port),
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=log,
            ) as process,
        ):
            wait_for_port(port, process)
            _wait_until_ready(f"127.0.0.1:{port}")
            yield f"127.0.0.1:{port}"


def _lay_out(
    model: Path, bundle: Path, batching: str, given: str, kind: str, dims: str, answer: str
) -> None:
    for version in bundle.iterdir():
        folder = model / version.name
        folder.mkdir(parents=True)
        shutil.copy(version / "model.onnx", folder)
        shutil.copy(MODEL, folder / "model.py")
    (model / "labels.txt").write_text("\n".join(COLOURS))
    (model / "config.pbtxt").write_text(f"""\
name: "{model.name}" backend: "python" {batching}
input [{{ name: "{given}" data_type: {kind} dims: {dims} }}]
output [{{ name: "probabilities" data_type: TYPE_FP32
  dims: {answer} label_filename: "labels.txt" }}]
instance_group [{{ kind: KIND_CPU count: 1 }}]
""")


def _wait_until_ready(address: str) -> None:
    end = time.monotonic() + PATIENCE
    with grpc.insecure_channel(address) as channel:
        stub = rpc.GRPCInferenceServiceStub(channel)
        while time.monotonic() < end:
            try:
                if stub.ServerReady(pb.ServerReadyRequest()).ready:
                    return
            except grpc.RpcError:
                pass
            time.sleep(0.1)
    raise SystemExit("Triton did not become ready")
