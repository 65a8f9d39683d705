"""Inputs and outputs in shared memory, and what keeps callers within it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from service.oip import grpc_service_pb2 as pb
from service.oip import grpc_service_pb2_grpc as rpc
from service.oip.regions import FOLDER, MOST_REGIONS
from tests.bundles import expected, solid
from tests.servers import PATIENCE, Running, running_server
from tests.service.inference import files_request, inference_stub, pixels_request, refused, top

pytestmark = [
    pytest.mark.usefixtures("front"),
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"this system has no {FOLDER}"),
]

NOISE = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8)
# The object: something that is not the region, the pixels, and room for the probabilities.
BEFORE, PIXELS, ROOM = 64, NOISE.nbytes, 3 * 3 * 4
SIZE = PIXELS + ROOM

Stub = rpc.GRPCInferenceServiceStub
Register = pb.SystemSharedMemoryRegisterRequest


@pytest.fixture(scope="module")
def sharing(models: Path, front: str) -> Iterator[Running]:
    with running_server(models, front=front, shared_memory=True) as server:
        yield server


@pytest.fixture
def inference(sharing: Running) -> Iterator[Stub]:
    with inference_stub(sharing) as stub:
        yield stub
        stub.SystemSharedMemoryUnregister(
            pb.SystemSharedMemoryUnregisterRequest(), timeout=PATIENCE
        )


@pytest.fixture
def shared() -> Iterator[Path]:
    """An object of shared memory with NOISE in it."""
    file = FOLDER / f"convoy-test-{uuid4().hex}"
    file.write_bytes(bytes(BEFORE) + NOISE.tobytes() + bytes(ROOM))
    yield file
    file.unlink(missing_ok=True)


def register(inference: Stub, shared: Path, **fields: Any) -> None:
    wanted = {"name": "r", "key": f"/{shared.name}", "offset": BEFORE, "byte_size": SIZE, **fields}
    inference.SystemSharedMemoryRegister(Register(**wanted), timeout=PATIENCE)


def place(tensor: Any, byte_size: int, offset: int = 0, region: str = "r") -> None:
    tensor.parameters["shared_memory_region"].string_param = region
    tensor.parameters["shared_memory_byte_size"].int64_param = byte_size
    if offset:
        tensor.parameters["shared_memory_offset"].int64_param = offset


def in_shared_memory() -> pb.ModelInferRequest:
    """Pixels from the region, and the answer into it."""
    request = pixels_request(NOISE)
    del request.raw_input_contents[:]
    place(request.inputs[0], PIXELS)
    place(request.outputs.add(name="probabilities"), ROOM, PIXELS)
    return request


def test_images_and_answers_in_shared_memory(inference: Stub, shared: Path) -> None:
    register(inference, shared)
    reply = inference.ModelInfer(in_shared_memory(), timeout=PATIENCE)
    (output,) = reply.outputs
    assert (output.datatype, list(output.shape)) == ("FP32", [3, 3])
    assert list(reply.raw_output_contents) == [b""]
    content = shared.read_bytes()
    answer = np.frombuffer(content[-ROOM:], np.float32).reshape(3, 3)
    assert answer == pytest.approx(expected(NOISE), abs=1e-5)
    assert content[:BEFORE] == bytes(BEFORE)


def in_shared_file(inference: Stub, shared: Path, image: bytes) -> pb.ModelInferRequest:
    """The file of an image from a region that is registered for it."""
    request = files_request(image, outputs=[top(1)])
    (elements,) = request.raw_input_contents
    shared.write_bytes(elements)
    register(inference, shared, key=shared.name, offset=0, byte_size=len(elements))
    del request.raw_input_contents[:]
    place(request.inputs[0], len(elements))
    return request


def test_image_files_in_shared_memory(inference: Stub, shared: Path) -> None:
    request = in_shared_file(inference, shared, solid("blue"))
    reply = inference.ModelInfer(request, timeout=PATIENCE)
    assert reply.raw_output_contents[0].endswith(b":2:blue")


def test_a_stream_is_held_back_by_what_it_has_in_shared_memory(models: Path, shared: Path) -> None:
    with (
        running_server(models, shared_memory=True, max_queue_bytes=250_000) as server,
        inference_stub(server) as inference,
    ):
        request = in_shared_file(inference, shared, solid("blue") + bytes(50_000))
        replies = list(inference.ModelStreamInfer(iter([request] * 100)))
    assert len(replies) == 100
    assert {one.error_message for one in replies} == {""}


def test_regions_are_listed_and_forgotten(inference: Stub, shared: Path) -> None:
    def names(**asked: str) -> dict[str, tuple[str, int, int]]:
        request = pb.SystemSharedMemoryStatusRequest(**asked)
        regions = inference.SystemSharedMemoryStatus(request, timeout=PATIENCE).regions
        return {name: (one.key, one.offset, one.byte_size) for name, one in regions.items()}

    def forget(name: str) -> None:
        request = pb.SystemSharedMemoryUnregisterRequest(name=name)
        inference.SystemSharedMemoryUnregister(request, timeout=PATIENCE)

    register(inference, shared)
    register(inference, shared, name="s", offset=0)
    key = f"/{shared.name}"
    assert names() == {"r": (key, BEFORE, SIZE), "s": (key, 0, SIZE)}
    assert names(name="s") == {"s": (key, 0, SIZE)}
    again = Register(name="r", key=key, byte_size=1)
    assert refused(inference.SystemSharedMemoryRegister, again)[0] == "ALREADY_EXISTS"
    forget("r")
    forget("none")
    unknown = pb.SystemSharedMemoryStatusRequest(name="r")
    assert refused(inference.SystemSharedMemoryStatus, unknown)[0] == "NOT_FOUND"
    assert refused(inference.ModelInfer, in_shared_memory())[0] == "NOT_FOUND"
    forget("")
    assert names() == {}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"key": "../etc/passwd"}, "is no name of a shared memory object"),
        ({"key": "//etc/passwd"}, "is no name of a shared memory object"),
        ({"key": "a/b"}, "is no name of a shared memory object"),
        ({"key": "/.."}, "is no name of a shared memory object"),
        ({"key": ""}, "is no name of a shared memory object"),
        ({"key": "a\0b"}, "is no name of a shared memory object"),
        ({"key": "x" * 256}, "is no name of a shared memory object"),
        ({"key": "convoy-none"}, "cannot be opened: No such file"),
        ({"name": ""}, "name: 0 characters, must be 1 to 256"),
        ({"byte_size": 0}, "byte_size: 0 from offset 64 on, must be at least 1"),
        ({"byte_size": SIZE + 1}, f"within the {BEFORE + SIZE:,} bytes of the object"),
        ({"offset": 2**64 - 1, "byte_size": 2**64 - 1}, "bytes of the object"),
    ],
)
def test_what_cannot_be_registered(
    inference: Stub, shared: Path, fields: dict[str, Any], says: str
) -> None:
    wanted = {"name": "r", "key": shared.name, "offset": BEFORE, "byte_size": SIZE, **fields}
    code, text = refused(inference.SystemSharedMemoryRegister, Register(**wanted))
    assert code == "INVALID_ARGUMENT"
    assert says in text


def test_links_pipes_and_folders_are_no_shared_memory(
    inference: Stub, shared: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(bytes(100))
    for make in (lambda: shared.symlink_to(tmp_path / "secret"), lambda: os.mkfifo(shared)):
        shared.unlink()
        make()
        request = Register(name="r", key=shared.name, byte_size=1)
        assert refused(inference.SystemSharedMemoryRegister, request)[0] == "INVALID_ARGUMENT"


def test_regions_are_bounded_in_number(inference: Stub, shared: Path) -> None:
    for k in range(MOST_REGIONS):
        register(inference, shared, name=str(k))
    request = Register(name="r", key=shared.name, byte_size=1)
    assert "unregister one" in refused(inference.SystemSharedMemoryRegister, request)[1]


def small_output(request: pb.ModelInferRequest) -> None:
    place(request.outputs[0], ROOM - 1, PIXELS)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda one: place(one.inputs[0], SIZE + 1), "leave the shared memory region 'r'"),
        (lambda one: place(one.inputs[0], PIXELS, SIZE), "leave the shared memory region 'r'"),
        (lambda one: place(one.inputs[0], PIXELS, -64), "shared_memory_offset]: must be a whole"),
        (lambda one: place(one.inputs[0], -1), "shared_memory_byte_size]: must be a whole"),
        (lambda one: place(one.inputs[0], 2**63 - 1, 2**63 - 1), "leave the shared memory region"),
        (lambda one: place(one.inputs[0], PIXELS - 1), "9,215 bytes, its shape"),
        (lambda one: place(one.outputs[0], ROOM, SIZE), "outputs[0] (probabilities): 36 bytes"),
        (small_output, "outputs[0] (probabilities): 36 bytes, its place in shared memory has 35"),
        (lambda one: one.raw_input_contents.append(b""), "raw_input_contents: 1, must be 0"),
        (lambda one: one.inputs[0].contents.uint_contents.append(1), "contents beside shared"),
    ],
)
def test_nobody_leaves_a_region(inference: Stub, shared: Path, change: Any, says: str) -> None:
    register(inference, shared)
    request = in_shared_memory()
    change(request)
    before = shared.read_bytes()
    code, text = refused(inference.ModelInfer, request)
    assert code == "INVALID_ARGUMENT"
    assert says in text
    assert shared.read_bytes() == before


def test_an_object_that_is_cut_short_ends_a_request_and_not_the_server(
    inference: Stub, shared: Path
) -> None:
    register(inference, shared)
    for size in (BEFORE, BEFORE + PIXELS):
        os.truncate(shared, size)
        code, text = refused(inference.ModelInfer, in_shared_memory())
        assert code == "INVALID_ARGUMENT"
        assert "has become smaller" in text
        assert shared.stat().st_size == size


def test_a_region_that_is_forgotten_while_its_request_waits(models: Path, shared: Path) -> None:
    with (
        running_server(models, shared_memory=True, max_delay_ms=10_000, max_batch_size=6) as server,
        inference_stub(server) as inference,
    ):
        register(inference, shared)
        waiting = inference.ModelInfer.future(in_shared_memory())
        server.wait_for_metric(3, "convoy_queue_depth")
        inference.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest())
        inference.ModelInfer(pixels_request(NOISE), timeout=PATIENCE)
        assert "no shared memory region 'r'" in str(waiting.exception(PATIENCE))


def test_a_smaller_region_of_the_same_name_is_not_written_beyond(
    models: Path, shared: Path
) -> None:
    with (
        running_server(models, shared_memory=True, max_delay_ms=10_000, max_batch_size=6) as server,
        inference_stub(server) as inference,
    ):
        register(inference, shared)
        before = shared.read_bytes()
        waiting = inference.ModelInfer.future(in_shared_memory())
        server.wait_for_metric(3, "convoy_queue_depth")
        inference.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest())
        register(inference, shared, byte_size=PIXELS)
        inference.ModelInfer(pixels_request(NOISE), timeout=PATIENCE)
        assert "has become smaller" in str(waiting.exception(PATIENCE))
        assert shared.read_bytes() == before


def test_shared_memory_is_off_unless_asked_for(server: Running, shared: Path) -> None:
    with inference_stub(server) as inference:
        request = Register(name="r", key=shared.name, byte_size=1)
        code, text = refused(inference.SystemSharedMemoryRegister, request)
        assert code == "UNIMPLEMENTED"
        assert "--shared-memory" in text
        assert "system_shared_memory" not in (
            inference.ServerMetadata(pb.ServerMetadataRequest(), timeout=PATIENCE).extensions
        )
