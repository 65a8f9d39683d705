"""`convoy-serve` as an operator starts and stops it: exit codes, messages, signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from convoy.bundle import Golden, write_bundle
from convoy.v1 import image_classifier_pb2 as pb
from convoy.v1 import image_classifier_pb2_grpc as rpc
from service.scheduling import BACKGROUND, COMPUTES
from service.settings import ENV_PREFIX, SERVICE_LINK, Settings
from tests.bundles import make_bundle, solid
from tests.servers import PATIENCE, Running, decoders, server_process, start_process

pytestmark = pytest.mark.usefixtures("front")

CHOSEN = """
import os
from service.scheduling import let_threads_finish
let_threads_finish()
print(os.sched_getscheduler(0) == os.SCHED_IDLE)
"""
ONE = pb.ClassifyRequest(images=[pb.Image(encoded=solid("red"))])
OWN_NICENESS = os.getpriority(os.PRIO_PROCESS, 0)
OF_LINUX = pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="SCHED_BATCH is of Linux")


def outcome(models: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and last line of a service that does not start."""
    with start_process(models, *arguments) as process:
        _, errors = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in errors
    return process.returncode, errors.strip().splitlines()[-1]


def of_threads(ask: Callable[[int], int], *processes: int) -> list[int]:
    """The answer for each thread of some processes."""
    found = []
    for task in chain.from_iterable(Path(f"/proc/{one}/task").glob("*") for one in processes):
        with suppress(ProcessLookupError):  # it has ended
            found.append(ask(int(task.name)))
    return found


def policies(server: Running) -> set[int]:
    """How the kernel schedules the threads of a service and its decoding processes."""
    pid = server.serving_process()
    return set(of_threads(os.sched_getscheduler, pid, *decoders(pid)))


def niceness(process: int) -> Counter[int]:
    """How many threads of a process are so far above the niceness of this one."""
    answers = of_threads(lambda thread: os.getpriority(os.PRIO_PROCESS, thread), process)
    return Counter(nice - OWN_NICENESS for nice in answers)


def wait_for_policy(
    server: Running, policy: int, meanwhile: Callable[[], None] = lambda: None
) -> None:
    """Return once all threads have it."""
    end = time.monotonic() + PATIENCE
    while policies(server) != {policy}:
        assert time.monotonic() < end
        meanwhile()
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--max-batch-size", "0"], "max-batch-size: "),
        (["--max-batch-size", "many"], "max-batch-size: "),
        (["--grpc-address", "8500"], "grpc-address: must be HOST:PORT"),
        (["--device", "tpu"], "device: must be auto, cpu, cuda, cuda:N, tensorrt or tensorrt:N"),
        (["--speed", "11"], "unrecognized arguments: --speed 11"),
        (["--max-message-bytes", "3000000000"], "max-message-bytes: "),
        (["--config", "missing.toml"], "config: missing.toml: "),
        (["--default-model", "none"], "default-model: 'none' is not in"),
        (["--grpc-address", "203.0.113.1:8500"], "grpc-address: cannot listen"),
        (["--default-priority-level", "2"], "default-priority-level: must be 1 to priority-levels"),
        (["--priority-queue-sizes", "8,64"], "priority-queue-sizes: must be 1 in number, as"),
    ],
)
def test_a_wrong_setting_is_one_line_and_code_2(
    models: Path, arguments: list[str], text: str
) -> None:
    code, line = outcome(models, *arguments)
    assert code == 2
    assert text in line


def test_settings_come_from_flags_then_variables_then_the_file(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "convoy.toml"
    file.write_text("max_batch_size = 3\nmax_queue_size = 4\nmax_delay_ms = 5\n")
    monkeypatch.setenv("CONVOY_CONFIG", str(file))
    monkeypatch.setenv("CONVOY_MAX_QUEUE_SIZE", "6")
    with start_process(models, "--max-delay-ms", "7") as process:
        assert process.stderr is not None
        settings = json.loads(process.stderr.readline())
        process.kill()
        process.stderr.read()
    assert (settings["max_batch_size"], settings["max_queue_size"]) == (3, 6)
    assert settings["max_delay_ms"] == 7


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("speed = 1", "speed: no such setting"),
        ("= 1", "Invalid"),
        ("max_batch_size = 0", "max-batch-size: "),
        ("config = 'other.toml'", "config: a file cannot name another one"),
    ],
)
def test_a_wrong_file(models: Path, tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "convoy.toml"
    file.write_text(text)
    code, line = outcome(models, "--config", str(file))
    assert code == 2
    assert complaint in line


def test_an_unknown_variable(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVOY_COMPILE", "1")  # known: it is of the build
    monkeypatch.setenv("CONVOY_MAX_BATCHSIZE", "8")
    assert outcome(models) == (
        2,
        "convoy-serve: CONVOY_MAX_BATCHSIZE: no such setting (an environment variable); see --help",
    )


@pytest.mark.parametrize("service", ["CONVOY", "CONVOY_GPU", "CONVOY_2_X"])
def test_the_service_links_of_kubernetes_are_no_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    links = ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_GRPC", "PORT", "PORT_8500_TCP_ADDR")
    for name in (*links, "PORT_8500_TCP"):
        monkeypatch.setenv(f"{service}_{name}", "tcp://10.0.0.1:8500")
    assert "no bundle" in outcome(tmp_path)[1]


def test_a_port_is_no_service_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVOY_GRPC_PORT", "8500")
    assert "CONVOY_GRPC_PORT: no such setting" in outcome(tmp_path)[1]


def test_no_setting_is_taken_for_a_service_link() -> None:
    names = [f"{ENV_PREFIX}{name}".upper() for name in Settings.model_fields]
    assert not [name for name in names if SERVICE_LINK.match(f"{name}=tcp://10.0.0.1:8500")]


def test_ports_in_use(models: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for flag in ("--grpc-address", "--http-address"):
            code, line = outcome(models, flag, address)
            assert code == 2
            assert f"cannot listen on {address}" in line


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_one_port_for_both_addresses(models: Path, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    addresses = (f"--grpc-address={host}:{port}", f"--http-address=127.0.0.1:{port}")
    code, line = outcome(models, *addresses)
    assert code == 2
    assert "-address: " in line
    assert f":{port}" in line


def test_nothing_to_serve(tmp_path: Path) -> None:
    assert outcome(tmp_path / "none")[0] == 2
    code, line = outcome(tmp_path)
    assert code == 2
    assert "no bundle" in line


@pytest.mark.parametrize("device", ["cuda", "tensorrt:1"])
def test_a_gpu_by_name_refuses_to_start_without_one(models: Path, device: str) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU")
    code, line = outcome(models, "--device", device)
    assert code == 3
    assert "libcuda.so.1 is missing" in line
    assert "--device cpu" in line


def test_auto_falls_back_loudly(models: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU")
    with server_process(models, "--device", "auto") as server, server.stub() as stub:
        assert server.metric("convoy_device_fallback") == 1
        assert stub.Classify(ONE, timeout=PATIENCE).model == "tiny"


def damage_checksum(bundle: Path) -> None:
    data = bytearray((bundle / "model.onnx").read_bytes())
    data[-1] ^= 1
    (bundle / "model.onnx").write_bytes(data)


def damage_missing(bundle: Path) -> None:
    (bundle / "golden.npz").unlink()


def damage_manifest(bundle: Path) -> None:
    (bundle / "manifest.json").unlink()


def damage_schema(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 99}))


@pytest.mark.parametrize(
    ("damage", "file", "reason"),
    [
        (damage_checksum, "model.onnx", "sha256"),
        (damage_missing, "golden.npz", "missing"),
        (damage_manifest, "manifest.json", "missing"),
        (damage_schema, "manifest.json", "schema_version is 99"),
    ],
)
def test_a_damaged_bundle_is_not_served(tmp_path: Path, damage, file: str, reason: str) -> None:
    damage(make_bundle(tmp_path).path)
    code, line = outcome(tmp_path)
    assert code == 3
    assert f"tiny/1/{file}: " in line
    assert reason in line


@pytest.mark.parametrize("part", ["probabilities", "pixels"])
def test_a_golden_input_that_comes_out_differently(tmp_path: Path, part: str) -> None:
    bundle = make_bundle(tmp_path / "good")
    golden = bundle.golden()
    changed = {
        "encoded": golden.encoded,
        "pixels": golden.pixels,
        "probabilities": golden.probabilities,
        part: np.roll(getattr(golden, part), 1, axis=0),
    }
    files = {
        "model.onnx": bundle.model_path.read_bytes(),
        "golden.npz": Golden(**changed).to_bytes(),
    }
    write_bundle(tmp_path / "bad", bundle.manifest, files)
    code, line = outcome(tmp_path / "bad")
    assert code == 3
    assert "golden.npz" in line


def test_a_file_that_is_no_network(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "good")
    files = {"model.onnx": b"version https://git-lfs", "golden.npz": bundle.golden().to_bytes()}
    write_bundle(tmp_path / "bad", bundle.manifest, files)
    code, line = outcome(tmp_path / "bad")
    assert code == 3
    assert "model.onnx: ONNX Runtime cannot load it" in line


def test_one_broken_model_keeps_the_service_from_starting(tmp_path: Path) -> None:
    make_bundle(tmp_path, name="good")
    damage_missing(make_bundle(tmp_path, name="bad").path)
    code, line = outcome(tmp_path)
    assert code == 3
    assert "bad/1/golden.npz: missing" in line


def test_sigterm_answers_what_was_accepted_and_exits_0(models: Path) -> None:
    with server_process(models, "--max-delay-ms", "10000") as server, server.stub() as stub:
        calls = [stub.Classify.future(ONE) for _ in range(20)]
        server.wait_for_metric(20, "convoy_queue_depth")
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        assert [call.result(PATIENCE).model for call in calls] == ["tiny"] * 20
        assert server.process.wait(PATIENCE) == 0


def test_a_service_that_loads_answers_and_says_that_it_is_not_ready(tmp_path: Path) -> None:
    make_bundle(tmp_path, size=512)  # large enough to take a while to warm up
    with start_process(tmp_path, "--grpc-address", f"127.0.0.1:{free_port()}") as process:
        assert process.stderr is not None
        address = json.loads(process.stderr.readline())["grpc_address"]
        with grpc.insecure_channel(address) as channel:
            check = health_pb2.HealthCheckRequest()
            seen = set()
            while (status := health_of(channel, check)) != health_pb2.HealthCheckResponse.SERVING:
                seen.add(status)
        process.terminate()
        process.stderr.read()
    assert seen <= {None, health_pb2.HealthCheckResponse.NOT_SERVING}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def health_of(channel: grpc.Channel, check: health_pb2.HealthCheckRequest) -> int | None:
    try:
        stub = health_pb2_grpc.HealthStub(channel)
        return int(stub.Check(check, timeout=PATIENCE, wait_for_ready=True).status)
    except grpc.RpcError:
        return None


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    make_bundle(tmp_path, flaw="hangs-on-black")
    with server_process(tmp_path) as server, server.stub() as stub:
        # A drain runs at once what waits, and might end before the second signal.
        black = pb.Image(encoded=solid("black"))
        call = stub.Classify.future(pb.ClassifyRequest(images=[black]))
        server.wait_for_metric(1, "convoy_batch_size_count")
        assert server.process is not None
        # Two different signals: the kernel would merge two of the same.
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(PATIENCE) == 1
        assert call.exception(PATIENCE) is not None


@pytest.mark.parametrize(
    ("python", "text"),
    [
        ("/bin/false", "a process that decodes images did not start"),
        ("/none", "cannot start a process that decodes: No such file or directory"),
    ],
)
def test_without_processes_that_decode_it_does_not_start(
    models: Path, monkeypatch: pytest.MonkeyPatch, python: str, text: str
) -> None:
    monkeypatch.setenv("_CONVOY_PYTHON", python)
    code, line = outcome(models, "--front", "grpcio")
    assert code == 1
    assert text in line


@OF_LINUX
def test_no_thread_takes_the_processor_from_another(models: Path) -> None:
    with server_process(models) as server:
        with grpc.insecure_channel(server.grpc_address) as channel:
            rpc.ImageClassifierStub(channel).Classify(ONE, timeout=PATIENCE)
        assert policies(server) == {os.SCHED_BATCH}


@OF_LINUX
def test_they_do_so_where_several_models_are_used(tmp_path: Path) -> None:
    names = ("a", "b")
    for name in names:
        make_bundle(tmp_path, name=name)
    with server_process(tmp_path, "--default-model", "a") as server:
        with grpc.insecure_channel(server.grpc_address) as channel:
            stub = rpc.ImageClassifierStub(channel)

            def use_both() -> None:
                for name in names:
                    request = pb.ClassifyRequest(model=name, images=ONE.images)
                    stub.Classify(request, timeout=PATIENCE)

            wait_for_policy(server, os.SCHED_OTHER, meanwhile=use_both)
        wait_for_policy(server, os.SCHED_BATCH)


@OF_LINUX
@pytest.mark.skipif(OWN_NICENESS + BACKGROUND > 19, reason="19 is the end of the scale")
def test_what_computes_gives_way_to_what_answers(tmp_path: Path) -> None:
    make_bundle(tmp_path, version=1)
    make_bundle(tmp_path, version=2)
    shadow = '[tiny.challenger]\nversion = 2\nmode = "shadow"\nshare = 1.0\n'
    (tmp_path / "models.toml").write_text(shadow)
    with server_process(tmp_path, "--compute-threads", "2", "--decode-processes", "1") as server:
        found = niceness(server.serving_process())
        (decoder,) = server.decoders()
        assert niceness(decoder).keys() == {COMPUTES}
    assert found.keys() == {0, COMPUTES, BACKGROUND}
    assert found[COMPUTES] == found[BACKGROUND] == 2


def test_a_policy_that_was_chosen_is_kept() -> None:
    command = ["chrt", "--idle", "0", sys.executable, "-c", CHOSEN]
    if shutil.which("chrt") is None:
        pytest.skip("no chrt, of util-linux")
    assert subprocess.run(command, check=True, capture_output=True).stdout == b"True\n"


def test_help_starts_light() -> None:
    reply = subprocess.run(
        [sys.executable, "-m", "service.cli", "--help"], capture_output=True, text=True, check=True
    )
    assert "--max-delay-ms" in reply.stdout
