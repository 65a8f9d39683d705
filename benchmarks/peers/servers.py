"""The servers that are compared, each as its documentation has it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import numpy as np
from google.protobuf.wrappers_pb2 import BytesValue

from benchmarks.h2load import Load, framed
from benchmarks.peers import triton
from benchmarks.peers.peer import APPS, CALL_SECONDS, GrpcPeer, HttpPeer
from benchmarks.peers.task import DEFAULTS, Setting, Task
from benchmarks.processes import METHOD, ROOT, Server, convoy_serve, free_port
from convoy.v1 import image_classifier_pb2 as pb
from service.settings import Settings

# Of Mosec for a request, as long as h2load waits. By default it gives up after 3 s, which 64 photos
# at once take ResNet-18 on slow processors.
MOSEC_MILLISECONDS = 60_000


class Ours(GrpcPeer):
    """This service, with its own settings."""

    url_path = METHOD + "Classify"
    application = "convoy_application"

    def __init__(self, front: str, *, compiled: bool = True) -> None:
        self.name = f"convoy, {front}"
        self.python = Path(sys.executable)
        self.version = version("convoy")
        self._front = front
        self._compiled = compiled

    def settings(self) -> tuple[Setting, ...]:
        """Its defaults."""
        return (DEFAULTS,)

    @contextmanager
    def serve(self, folder: Path, task: Task, setting: Setting) -> Iterator[Server]:
        """Run until the end of the block; yields once it is ready."""
        models, front = task.bundle.model_path.parents[2], ("--front", self._front)
        with convoy_serve(models, *front, compiled=self._compiled) as server:
            yield server

    def command(self, port: int, folder: Path, task: Task, setting: Setting) -> list[str]:
        """Not used: `convoy_serve` knows it."""
        raise NotImplementedError

    def body(self, task: Task) -> bytes:
        """A typed request; the answer has the five most probable labels."""
        return framed(task.load.request())

    def check(self, server: Server, task: Task, reply: bytes) -> None:
        """Ask for all probabilities and put them in order."""
        request = task.load.request()
        request.top_k = len(task.bundle.manifest.labels)
        answer = pb.ClassifyResponse.FromString(self.post(server, framed(request))[5:])
        found = np.zeros(request.top_k, np.float32)
        for one in answer.predictions[0].classes:
            found[one.index] = one.probability
        task.check(found, own_decoder=True)

    def failed(self, load: Load, reply: bytes, server: Server, before: int | None) -> int:
        """As the service counts: its answers hold times and differ in size."""
        return load.requests - ((server.answered() or 0) - (before or 0))


class Mosec(HttpPeer):
    """A Rust front, workers in Python."""

    name = "mosec"
    packages = ("mosec", "aiohttp")
    url_path = "/inference"
    application = "http_application"

    def command(self, port: int, folder: Path, task: Task, setting: Setting) -> list[str]:
        """Its sockets lie in the folder."""
        command = [str(self.python), "-m", APPS + "mosec_app", "--port", str(port)]
        command += ["--address", "127.0.0.1", "--timeout", str(MOSEC_MILLISECONDS)]
        return [*command, "--path", str(folder / "sockets")]

    def body(self, task: Task) -> bytes:
        """The image."""
        return task.data


class LitServe(HttpPeer):
    """FastAPI before worker processes."""

    name = "litserve"
    packages = ("litserve", "python-multipart")
    url_path = "/predict"
    headers = ("content-type: multipart/form-data; boundary=frontier",)

    def command(self, port: int, folder: Path, task: Task, setting: Setting) -> list[str]:
        """A script."""
        return [str(self.python), "-m", APPS + "litserve_app", str(port)]

    def body(self, task: Task) -> bytes:
        """A form with one file, which LitServe takes as bytes; JSON would need base64."""
        head = b'Content-Disposition: form-data; name="image"; filename="image"'
        return b"--frontier\r\n%b\r\n\r\n%b\r\n--frontier--\r\n" % (head, task.data)


class Ray(GrpcPeer):
    """Ray Serve's gRPC proxy before replicas."""

    name = "ray"
    packages = ("ray[serve]",)
    url_path = "/benchmarks.Classifier/Classify"

    def command(self, port: int, folder: Path, task: Task, setting: Setting) -> list[str]:
        """A script that starts a cluster of one machine."""
        command = [str(self.python), "-m", APPS + "ray_app", str(port), str(free_port())]
        return [*command, str(folder / "ray")]

    def environment(self, task: Task, setting: Setting) -> dict[str, str]:
        """No statistics leave the machine, no token is written into the home."""
        options = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
        return super().environment(task, setting) | options

    def body(self, task: Task) -> bytes:
        """A protobuf wrapper around the image."""
        return framed(BytesValue(value=task.data))

    def values(self, reply: bytes) -> bytes:
        """In a wrapper too."""
        return BytesValue.FromString(reply[5:]).value


class OipPeer(GrpcPeer):
    """Speaks the Open Inference Protocol; tritonclient makes the request and checks the answer."""

    url_path = "/inference.GRPCInferenceService/ModelInfer"
    application = "oip_application"

    def body(self, task: Task) -> bytes:
        """The message that the client sends."""
        message = self._client("request", task)
        return b"\0" + len(message).to_bytes(4, "big") + message

    def check(self, server: Server, task: Task, reply: bytes) -> None:
        """Ask once more, by the client."""
        values = self._client("ask", task, server.grpc_address)
        task.check(np.frombuffer(values, np.float32))

    def _client(self, command: str, task: Task, *address: str) -> bytes:
        """Run apps/oip_client.py; returns what it writes."""
        with tempfile.TemporaryDirectory() as folder:
            image, out = Path(folder, "image"), Path(folder, "out")
            image.write_bytes(task.data)
            subprocess.run(
                [
                    *(self.python, "-m", APPS + "oip_client", command),
                    *(image, str(task.side), out, *address),
                ],
                check=True,
                cwd=ROOT,
                timeout=CALL_SECONDS,
            )
            return out.read_bytes()


class Triton(OipPeer):
    """tritonserver, the binary in NVIDIA's wheel, with the Python backend."""

    name = triton.NAME
    packages = triton.PACKAGES

    def command(self, port: int, folder: Path, task: Task, setting: Setting) -> list[str]:
        """A model repository with one model."""
        model = folder / "models" / "network"
        (model / "1").mkdir(parents=True)
        shutil.copy(
            ROOT / "benchmarks" / "peers" / "apps" / "triton_model.py", model / "1/model.py"
        )
        # The embedded interpreter heeds no PYTHONPATH, but it looks beside the model.
        (model / "1" / "benchmarks").symlink_to(ROOT / "benchmarks")
        (model / "config.pbtxt").write_text(self._config(task, setting))
        return triton.command(self.python, folder, port)

    def environment(self, task: Task, setting: Setting) -> dict[str, str]:
        """With its libraries."""
        return super().environment(task, setting) | triton.libraries(self.python)

    def _config(self, task: Task, setting: Setting) -> str:
        kind = "TYPE_STRING" if task.load.encoded else "TYPE_UINT8"
        dims = [1] if task.load.encoded else [task.side, task.side, 3]
        classes = len(task.bundle.manifest.labels)
        return f"""\
name: "network"
backend: "python"
max_batch_size: {setting.batch}
input [{{ name: "image" data_type: {kind} dims: {dims} }}]
output [{{ name: "probabilities" data_type: TYPE_FP32 dims: [{classes}] }}]
instance_group [{{ kind: KIND_CPU count: {setting.instances} }}]
dynamic_batching {{ }}
"""


class MLServer(OipPeer):
    """Python throughout; worker processes where there is more than one instance."""

    name = "mlserver"
    # Its workers ask for a current event loop, which later versions of uvloop do not make.
    packages = ("mlserver", "tritonclient[grpc]", "uvloop<0.22")

    def command(self, port: int, folder: Path, task: Task, setting: Setting) -> list[str]:
        """A folder with settings."""
        server = {
            "host": "127.0.0.1",
            "grpc_port": port,
            "http_port": free_port(),
            "metrics_port": free_port(),
            "parallel_workers": setting.instances if setting.instances > 1 else 0,
            "debug": False,
        }
        model = {
            "name": "network",
            "implementation": APPS + "mlserver_app.Classify",
            "max_batch_size": setting.batch,
            "max_batch_time": 0.001,
        }
        (folder / "settings.json").write_text(json.dumps(server))
        (folder / "model-settings.json").write_text(json.dumps(model))
        return [str(self.python.parent / "mlserver"), "start", str(folder)]


PEERS = (Triton, Mosec, MLServer, LitServe, Ray)


def fronts() -> tuple[str, ...]:
    """The fronts of this service that can start here."""
    return get_args(Settings.model_fields["front"].annotation)
