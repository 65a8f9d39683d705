"""What a malicious caller may send, as strategies of hypothesis: good requests made bad.

`operations` draws one thing that a caller does; tests/service/test_inference_fuzz.py does it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from operator import mul
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

from convoy.v1 import image_classifier_pb2 as convoy_pb
from service.oip import grpc_service_pb2 as pb
from tests.bundles import solid
from tests.service.inference import files_request, pixels_request, top

Request = pb.ModelInferRequest
Draw = Callable[[st.SearchStrategy[Any]], Any]

PIXELS = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)
RED = solid("red")
KEY = f"convoy-fuzz-{os.getpid()}"
OBJECT_BYTES = PIXELS.nbytes + 4096
INFER, STREAM = "/inference.GRPCInferenceService/ModelInfer", "ModelStreamInfer"
SERVICES = (
    pb.DESCRIPTOR.services_by_name["GRPCInferenceService"],
    convoy_pb.DESCRIPTOR.services_by_name["ImageClassifier"],
)
UNARY = [
    method
    for service in SERVICES
    for method in service.methods
    if not method.client_streaming and not method.server_streaming
]

# Where programs break: the ends of their types, and one beside them.
EDGES = [0, 1, 2, 3, 31, 32, 33, 255, 256, 257, 2**16, 2**20, 2**31 - 1, 2**31, 2**32 - 1, 2**32]
EDGES += [2**62, 2**63 - 1, 2**63, 2**64 - 1]
SIGNED = st.sampled_from([*(one for one in EDGES if one < 2**63), *(-one for one in EDGES[1:-1])])
UNSIGNED = st.sampled_from(EDGES)
WORDS = ["", "tiny", "none", "1", "2", "9", "-1", "0", "new", "images", "encoded_images", "r", "s"]
WORDS += ["probabilities", "UINT8", "BYTES", "FP32", "FP16", "BF16", "uint8", KEY, f"/{KEY}", "OFF"]
WORDS += ["../etc/passwd", "/", ".", "\0", "\x7f|%s%n", "x" * 300, "\u0662", "\U0001f600"]
TEXTS = st.sampled_from(WORDS) | st.text(max_size=12)
BYTES = st.binary(max_size=40) | st.builds(mul, st.binary(max_size=8), st.integers(0, 4000))
NAMES = ["timeout", "priority", "classification", "sequence_id", "sequence_start", "binary_data"]
NAMES += ["shared_memory_region", "shared_memory_offset", "shared_memory_byte_size", "headers"]
TYPED = list(pb.InferTensorContents.DESCRIPTOR.fields)

VALUES: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_STRING: TEXTS,
    FieldDescriptor.TYPE_BYTES: BYTES,
    FieldDescriptor.TYPE_FLOAT: st.floats(width=32),
    FieldDescriptor.TYPE_DOUBLE: st.floats(),
    FieldDescriptor.TYPE_INT64: SIGNED,
    FieldDescriptor.TYPE_UINT64: UNSIGNED,
    FieldDescriptor.TYPE_INT32: SIGNED.filter(lambda one: -(2**31) <= one < 2**31),
    FieldDescriptor.TYPE_UINT32: UNSIGNED.filter(lambda one: one < 2**32),
    FieldDescriptor.TYPE_ENUM: st.integers(0, 5),
}


@dataclass(frozen=True)
class Unary:
    """A call, from which the caller may walk away at once."""

    path: str
    message: bytes
    stays: bool = True


@dataclass(frozen=True)
class Stream:
    """Requests of one stream, all written before the answers are read."""

    messages: tuple[bytes, ...]


@dataclass(frozen=True)
class Resize:
    """The shared memory object is given another size."""

    size: int


@dataclass(frozen=True)
class Claim:
    """HTTP/2 by hand: gRPC's prefix says so many bytes follow, and others do."""

    packed: int
    claimed: int
    data: bytes


@dataclass(frozen=True)
class Noise:
    """Bytes on a connection of their own, to the port of gRPC or of HTTP."""

    data: bytes
    http: bool


@dataclass(frozen=True)
class Http:
    """A request over HTTP."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Operation = Unary | Stream | Resize | Claim | Noise | Http


def fill(draw: Draw, message: Message, depth: int = 3) -> None:
    """Give some fields of a message values, whatever they are for."""
    fields = list(message.DESCRIPTOR.fields)
    if not fields:
        return
    for number in draw(st.sets(st.sampled_from([one.number for one in fields]), max_size=4)):
        field = message.DESCRIPTOR.fields_by_number[number]
        if field.message_type is None:
            _give(draw, message, field)
        elif depth > 0:
            _fill_below(draw, message, field, depth - 1)


def _give(draw: Draw, message: Message, field: FieldDescriptor) -> None:
    values = VALUES[field.type]
    if field.is_repeated:
        getattr(message, field.name).extend(draw(st.lists(values, max_size=6)))
    else:
        setattr(message, field.name, draw(values))


def _fill_below(draw: Draw, message: Message, field: FieldDescriptor, depth: int) -> None:
    below = getattr(message, field.name)
    if field.message_type.GetOptions().map_entry:
        for name in draw(st.lists(st.sampled_from(NAMES) | TEXTS, max_size=3)):
            fill(draw, below[name], depth)
    elif field.is_repeated:
        for _ in range(draw(st.integers(0, 3))):
            fill(draw, below.add(), depth)
    else:
        below.SetInParent()
        fill(draw, below, depth)


def place(tensor: Any, offset: int, byte_size: int) -> None:
    """Have a tensor lie in the region `r`."""
    tensor.parameters["shared_memory_region"].string_param = "r"
    tensor.parameters["shared_memory_offset"].int64_param = offset
    tensor.parameters["shared_memory_byte_size"].int64_param = byte_size


def shared() -> Request:
    """Pixels from the region, and the answer into it."""
    request = pixels_request(PIXELS)
    del request.raw_input_contents[:]
    place(request.inputs[0], 0, PIXELS.nbytes)
    place(request.outputs.add(name="probabilities"), PIXELS.nbytes, 24)
    return request


def typed() -> Request:
    """One image, pixel by pixel."""
    request = pixels_request(PIXELS[:1])
    del request.raw_input_contents[:]
    request.inputs[0].contents.uint_contents.extend(PIXELS[0].ravel().tolist())
    return request


GOOD: tuple[Callable[[], Message], ...] = (
    lambda: pixels_request(PIXELS, model_version="2", id="a"),
    lambda: pixels_request(PIXELS, outputs=[top(2)]),
    lambda: files_request(RED, RED, outputs=[top(1)]),
    lambda: files_request(RED, parameters={"timeout": pb.InferParameter(int64_param=10**7)}),
    shared,
    typed,
)


def _rename(draw: Draw, request: Request) -> None:
    field = draw(st.sampled_from(["model_name", "model_version", "id"]))
    setattr(request, field, draw(TEXTS))


def _change_tensor(draw: Draw, request: Request) -> None:
    if request.inputs:
        tensor = draw(st.sampled_from(list(request.inputs)))
        setattr(tensor, draw(st.sampled_from(["name", "datatype"])), draw(TEXTS))


def _reshape(draw: Draw, request: Request) -> None:
    for tensor in request.inputs:
        if tensor.shape and draw(st.booleans()):
            tensor.shape[draw(st.integers(0, len(tensor.shape) - 1))] = draw(SIGNED)
        else:
            tensor.shape[:] = draw(st.lists(SIGNED, max_size=6))


def _set_parameter(draw: Draw, request: Request) -> None:
    holder = draw(st.sampled_from([request, *request.inputs, *request.outputs]))
    fill(draw, holder.parameters[draw(st.sampled_from(NAMES) | TEXTS)])


def _move(draw: Draw, request: Request) -> None:
    for tensor in (*request.inputs, *request.outputs):
        place(tensor, draw(SIGNED), draw(SIGNED))


def _change_raw(draw: Draw, request: Request) -> None:
    contents = st.sampled_from([PIXELS.tobytes(), PIXELS[0].tobytes(), RED, b""]) | BYTES | framed()
    request.raw_input_contents[:] = draw(st.lists(contents, max_size=3))


def _change_typed(draw: Draw, request: Request) -> None:
    if request.inputs:
        _give(draw, request.inputs[0].contents, draw(st.sampled_from(TYPED)))


def _change_count(draw: Draw, request: Request) -> None:
    field = draw(st.sampled_from([request.inputs, request.outputs]))
    if field and draw(st.booleans()):
        del field[0]
    else:
        fill(draw, field.add())


CHANGES = (
    *(_rename, _change_tensor, _reshape, _set_parameter, _move, _change_raw, _change_typed),
    _change_count,
)


@st.composite
def framed(draw: Draw) -> bytes:
    """Elements of BYTES whose lengths may lie."""
    parts = []
    for data in draw(st.lists(st.sampled_from([RED, b""]) | BYTES, max_size=4)):
        length = draw(st.just(len(data)) | UNSIGNED.map(lambda one: one % 2**32))
        parts.append(length.to_bytes(4, "little") + data)
    return b"".join(parts)


@st.composite
def changed(draw: Draw) -> bytes:
    """A good ModelInferRequest with up to three changes."""
    request = draw(st.sampled_from(GOOD))()
    for change in draw(st.lists(st.sampled_from(CHANGES), max_size=3)):
        change(draw, request)
    return request.SerializeToString()


@st.composite
def spoiled(draw: Draw) -> bytes:
    """The bytes of one with others put in their place, taken out or put between, or random ones."""
    data = bytearray(draw(changed() | BYTES))
    # A field of raw_input_contents or of inputs that claims to have 2 GB.
    claims = st.sampled_from([b"\x3a\xff\xff\xff\xff\x07", b"\x2a\xff\xff\xff\xff\x0f"])
    for _ in range(draw(st.integers(1, 4))):
        # The structure stands in the first bytes; most of the rest is pixels.
        at = draw(st.integers(0, min(len(data), 200)))
        data[at : at + draw(st.integers(0, 8))] = draw(st.binary(max_size=8) | claims)
    return bytes(data)


@st.composite
def any_call(draw: Draw) -> Unary:
    """Any method, with any message of its type."""
    method = draw(st.sampled_from(UNARY))
    module = convoy_pb if method.full_name.startswith("convoy") else pb
    message = getattr(module, method.input_type.name)()
    fill(draw, message)
    return Unary(
        f"/{method.containing_service.full_name}/{method.name}", message.SerializeToString()
    )


@st.composite
def registrations(draw: Draw) -> Unary:
    """A region of shared memory, mostly of the object that there is."""
    name = draw(st.sampled_from(["r", "r", "s"]) | TEXTS)
    key = draw(st.sampled_from([KEY, f"/{KEY}"]) | TEXTS)
    offset = draw(st.sampled_from([0, 0, 8, 4096]) | UNSIGNED)
    size = draw(st.sampled_from([OBJECT_BYTES, OBJECT_BYTES - 4096, 64]) | UNSIGNED)
    request = pb.SystemSharedMemoryRegisterRequest(
        name=name, key=key, offset=offset, byte_size=size
    )
    path = INFER.replace("ModelInfer", "SystemSharedMemoryRegister")
    return Unary(path, request.SerializeToString())


UNREGISTER = Unary(INFER.replace("ModelInfer", "SystemSharedMemoryUnregister"), b"")


def operations() -> st.SearchStrategy[Operation]:
    """One thing that a caller does."""
    messages = changed() | spoiled()
    return st.one_of(
        st.builds(Unary, st.just(INFER), changed()),
        st.builds(Unary, st.just(INFER), spoiled()),
        st.builds(Unary, st.just(INFER), messages, st.just(False)),
        any_call(),
        registrations(),
        st.just(UNREGISTER),
        st.builds(Stream, st.lists(messages, max_size=6).map(tuple)),
        st.builds(Resize, st.sampled_from([0, 24, PIXELS.nbytes, OBJECT_BYTES])),
        st.builds(Claim, st.integers(0, 255), st.sampled_from([2**31 - 1, 2**32 - 1, 99]), BYTES),
        st.builds(Noise, BYTES, st.booleans()),
    )
