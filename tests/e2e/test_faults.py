"""What callers see when something breaks, and that nothing accepted is lost for no reason."""

from __future__ import annotations

import asyncio
import os
import resource
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

from convoy.v1 import image_classifier_pb2 as pb
from convoy.v1 import image_classifier_pb2_grpc as rpc
from tests.bundles import SWOLLEN_BYTES, make_bundle, solid
from tests.servers import PATIENCE, Running, server_process

RED = pb.ClassifyRequest(images=[pb.Image(encoded=solid("red"))])
BLACK = pb.ClassifyRequest(images=[pb.Image(encoded=solid("black"))])

pytestmark = pytest.mark.usefixtures("front")


@pytest.fixture
def server(tmp_path: Path, front: str) -> Iterator[Running]:
    make_bundle(tmp_path)
    with server_process(tmp_path) as running:
        yield running


def label(response: pb.ClassifyResponse) -> str:
    return response.predictions[0].classes[0].label


def code(call: grpc.Future) -> str:
    return call.exception(PATIENCE).code().name


def test_a_model_that_hangs_frees_its_callers_and_ends_the_process(tmp_path: Path) -> None:
    make_bundle(tmp_path, flaw="hangs-on-black")
    settings = ("--compute-timeout", "0.5", "--on-crash", "exit")
    with server_process(tmp_path, *settings) as server, server.stub() as stub:
        computing = stub.Classify.future(BLACK, timeout=PATIENCE)
        server.wait_for_metric(1, "convoy_requests_in_flight")
        waiting = stub.Classify.future(RED, timeout=PATIENCE)
        assert (code(computing), code(waiting)) == ("UNAVAILABLE", "UNAVAILABLE")
        assert server.process is not None
        assert server.process.wait(PATIENCE) == 1


# Envoy's allocator reserves address space far beyond what a limit leaves.
GRPCIO = pytest.mark.parametrize("front", ["grpcio"], indirect=True)


def leave_memory(server: Running, size: int) -> None:
    """Let the process have so many bytes more."""
    limit = server.memory("VmSize") + size
    resource.prlimit(server.serving_process(), resource.RLIMIT_AS, (limit, limit))


@GRPCIO
def test_a_batch_that_memory_does_not_hold_runs_in_parts(tmp_path: Path) -> None:
    make_bundle(tmp_path, flaw="swells-on-black")
    with server_process(tmp_path) as server, server.stub() as stub:
        leave_memory(server, 12 * SWOLLEN_BYTES)  # four at once take 16
        four = pb.ClassifyRequest(images=[pb.Image(encoded=solid("black"))] * 4)
        assert len(stub.Classify(four, timeout=PATIENCE).predictions) == 4


@GRPCIO
def test_an_image_that_memory_does_not_hold_fails_alone(tmp_path: Path) -> None:
    make_bundle(tmp_path, flaw="swells-on-black")
    with server_process(tmp_path) as server, server.stub() as stub:
        leave_memory(server, SWOLLEN_BYTES // 2)
        assert code(stub.Classify.future(BLACK, timeout=PATIENCE)) == "RESOURCE_EXHAUSTED"
        assert server.metric("convoy_rejected_total", reason="out_of_memory") == 1
        assert label(stub.Classify(RED, timeout=PATIENCE)) == "red"


def test_calls_to_a_stopped_process_are_answered_when_it_goes_on(server: Running) -> None:
    with server.stub() as stub:
        assert label(stub.Classify(RED, timeout=PATIENCE)) == "red"
        os.kill(server.serving_process(), signal.SIGSTOP)
        patient = stub.Classify.future(RED, timeout=PATIENCE)
        assert code(stub.Classify.future(RED, timeout=0.2)) == "DEADLINE_EXCEEDED"
        os.kill(server.serving_process(), signal.SIGCONT)
        assert label(patient.result(PATIENCE)) == "red"


def test_no_image_is_lost_with_the_processes_that_decode(server: Running) -> None:
    with server.stub() as stub:
        decoders = server.decoders()
        for decoder in decoders:
            os.kill(decoder, signal.SIGSTOP)
        calls = [stub.Classify.future(RED, timeout=PATIENCE) for _ in range(100)]
        server.wait_for_metric(100, "convoy_requests_in_flight")
        for decoder in decoders:
            os.kill(decoder, signal.SIGKILL)
        assert {label(call.result(PATIENCE)) for call in calls} == {"red"}
        assert server.metric("convoy_decoder_crashes_total") == len(decoders)


def test_the_processes_that_decode_keep_nothing_of_the_service_open(server: Running) -> None:
    for decoder in server.decoders():
        folder = Path(f"/proc/{decoder}/fd")
        files = [os.readlink(fd) for fd in folder.iterdir() if int(fd.name) > 2]
        assert {file.partition(":")[0] for file in files} <= {"socket", "/memfd"}
        assert sum(file.startswith("socket:") for file in files) == 1


def test_the_processes_that_decode_end_with_a_killed_service(server: Running) -> None:
    decoders = server.decoders()
    assert decoders
    waits = [os.pidfd_open(decoder) for decoder in decoders]
    os.kill(server.serving_process(), signal.SIGKILL)
    for fd in waits:
        assert select.select([fd], [], [], PATIENCE)[0]
        os.close(fd)


# With Envoy the supervisor starts another: tests/service/test_envoy.py.
@GRPCIO
def test_a_killed_process_is_unavailable_until_another_answers(tmp_path: Path) -> None:
    make_bundle(tmp_path, flaw="hangs-on-black")
    with server_process(tmp_path) as server:
        channel = grpc.insecure_channel(server.grpc_address)
        classify = channel.unary_unary(
            "/convoy.v1.ImageClassifier/Classify",
            pb.ClassifyRequest.SerializeToString,
            pb.ClassifyResponse.FromString,
        )
        calls = [classify.future(BLACK, timeout=PATIENCE) for _ in range(64)]
        server.wait_for_metric(64, "convoy_requests_in_flight")
        assert server.process is not None
        server.process.kill()
        assert {code(call) for call in calls} == {"UNAVAILABLE"}
    with channel, server_process(tmp_path, "--grpc-address", server.grpc_address):
        assert label(classify(RED, timeout=PATIENCE, wait_for_ready=True)) == "red"


def test_connections_that_say_half_of_something_disturb_nobody(server: Running) -> None:
    host, port = server.grpc_address.split(":")
    halves = [b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\n", b"\x00" * 9, b"\xff"]
    with server.stub() as stub:
        for half in halves * 20:
            with socket.create_connection((host, int(port))) as one:
                one.sendall(half)
                one.shutdown(socket.SHUT_WR)
                assert label(stub.Classify(RED, timeout=PATIENCE)) == "red"


def test_a_caller_that_never_reads_holds_up_nobody(server: Running) -> None:
    before = server.memory("VmHWM")
    with server.stub() as stub:
        unread = stub.ClassifyStream(RED for _ in range(20_000))
        assert label(next(unread).response) == "red"
        assert label(stub.Classify(RED, timeout=PATIENCE)) == "red"
        unread.cancel()
        server.wait_for_metric(0, "convoy_requests_in_flight")
    assert server.memory("VmHWM") - before < 100e6


def test_streams_beyond_the_limit_are_refused_until_others_end(tmp_path: Path) -> None:
    make_bundle(tmp_path)

    async def crowd(address: str) -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = rpc.ImageClassifierStub(channel)  # type: ignore[no-untyped-call]
            streams = [stub.ClassifyStream() for _ in range(2)]
            for stream in streams:
                await stream.write(RED)
                assert label((await stream.read()).response) == "red"
            late = stub.ClassifyStream(timeout=PATIENCE)
            assert await late.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert await late.details() == "2 streams are open, the most there may be"
            await streams[0].done_writing()
            assert await streams[0].read() == grpc.aio.EOF
            third = stub.ClassifyStream(timeout=PATIENCE)
            await third.write(RED)
            assert label((await third.read()).response) == "red"

    with server_process(tmp_path, "--max-streams", "2") as server:
        asyncio.run(crowd(server.grpc_address))


@pytest.fixture
def half_a_processor() -> Iterator[Callable[[], None]]:
    """What a process is to call first, to have a CPU quota of 0.5 with all that it starts."""
    root = Path("/sys/fs/cgroup")
    place = next((one for one in (root / "cpu", root) if (one / "cgroup.procs").exists()), root)
    group = place / f"convoy-{os.getpid()}"
    try:
        group.mkdir()
        if (group / "cpu.cfs_quota_us").exists():
            (group / "cpu.cfs_quota_us").write_text("50000")
        else:
            (group / "cpu.max").write_text("50000 100000")
        subprocess.run(["sh", "-c", f"echo $$ > {group}/cgroup.procs"], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        with suppress(OSError):
            group.rmdir()
        pytest.skip(f"no group of processes can be made here: {error}")
    yield lambda: (group / "cgroup.procs").write_text(str(os.getpid())) and None
    server_is_gone = time.monotonic() + PATIENCE
    while (group / "cgroup.procs").read_text() and time.monotonic() < server_is_gone:
        time.sleep(0.01)
    group.rmdir()


def test_half_a_processor_answers_everybody(
    tmp_path: Path, half_a_processor: Callable[[], None]
) -> None:
    make_bundle(tmp_path)
    with server_process(tmp_path, preexec_fn=half_a_processor) as server:
        assert len(server.decoders()) == 1
        with server.stub() as stub:
            calls = [stub.Classify.future(RED, timeout=PATIENCE) for _ in range(200)]
            assert {label(call.result()) for call in calls} == {"red"}


@pytest.mark.parametrize("front", ["envoy"], indirect=True)  # grpcio reads calls before it asks us
def test_a_gigabyte_of_requests_is_not_kept(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    large = pb.Image(encoded=solid("red") + bytes(15 * 2**20))
    payload = pb.ClassifyRequest(images=[large]).SerializeToString()

    async def flood(address: str) -> set[str]:
        async def call(channel: grpc.aio.Channel) -> str:
            classify = channel.unary_unary("/convoy.v1.ImageClassifier/Classify")
            try:
                await classify(payload, timeout=4 * PATIENCE)
            except grpc.aio.AioRpcError as error:
                return error.code().name
            return "OK"

        channels = [grpc.aio.insecure_channel(address, [("channel", n)]) for n in range(8)]
        codes = await asyncio.gather(*(call(one) for one in channels for _ in range(9)))
        await asyncio.gather(*(channel.close() for channel in channels))
        return set(codes)

    with server_process(tmp_path, "--max-queue-bytes", str(64 * 2**20)) as server:
        before = server.memory("VmHWM")
        assert asyncio.run(flood(server.grpc_address)) == {"OK", "RESOURCE_EXHAUSTED"}
        assert server.memory("VmHWM") - before < 600e6
        assert server.metric("convoy_rejected_total", reason="queue_full") > 0
        with server.stub() as stub:
            assert label(stub.Classify(RED, timeout=PATIENCE)) == "red"
