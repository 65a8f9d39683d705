"""The images of a ModelInferRequest: what it claims of them is checked before it is believed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from convoy.bundle import INPUT_NAME
from convoy.imaging import InputSpec
from service.errors import InvalidRequest
from service.oip import grpc_service_pb2 as pb
from service.oip.describing import ENCODED_NAME
from service.oip.parameters import number
from service.oip.regions import BYTE_SIZE, Place, Regions
from service.oip.shown import dimensions, quoted
from service.session import Rows

DATATYPES = {INPUT_NAME: "UINT8", ENCODED_NAME: "BYTES"}
LENGTH_BYTES = 4
# A number of contents in memory, whatever its value; on the wire small ones are shorter.
NUMBER_BYTES = 4
# Numbers that a thread takes at once, about as long as a photo takes; and those between
# which other threads get their turn of the interpreter: each number is a Python object on its way.
STEP, CHUNK = 2**18, 2**15


@dataclass(frozen=True, slots=True)
class Input:
    """The one input of a request; name, datatype and rank are right, `count` may be any number."""

    request: pb.ModelInferRequest
    where: str
    encoded: bool
    count: int
    place: Place | None
    """Where it lies in shared memory, if it does."""

    @property
    def tensor(self) -> pb.ModelInferRequest.InferInputTensor:
        """Where it stands."""
        return self.request.inputs[0]

    @property
    def typed(self) -> bool:
        """Whether its elements are numbers or texts of the message."""
        return self.tensor.HasField("contents")


def size_of(request: pb.ModelInferRequest, received: int) -> int:
    """Bytes that a request takes in memory at most, with what it has in shared memory.

    As so many bytes it was received.

    Raises: InvalidRequest.
    """
    numbers = sum(len(one.contents.uint_contents) for one in request.inputs)
    shared = sum(number(one.parameters, BYTE_SIZE, one.name) for one in request.inputs)
    return received + NUMBER_BYTES * numbers + shared


def find_input(request: pb.ModelInferRequest, spec: InputSpec, regions: Regions) -> Input:
    """The input of a request.

    Raises: InvalidRequest naming the tensor and what is wrong; RegionNotFound.
    """
    for index, one in enumerate(request.inputs):
        if one.name not in DATATYPES:
            raise InvalidRequest(
                f"inputs[{index}]: there is no input {quoted(one.name)}; "
                f"give {INPUT_NAME} or {ENCODED_NAME}"
            )
    if len(request.inputs) != 1:
        raise InvalidRequest(
            f"inputs: {len(request.inputs)}, must be one: {INPUT_NAME} or {ENCODED_NAME}"
        )
    tensor = request.inputs[0]
    where = f"inputs[0] ({tensor.name})"
    if tensor.datatype != DATATYPES[tensor.name]:
        raise InvalidRequest(
            f"{where}: datatype {quoted(tensor.datatype)}, must be {DATATYPES[tensor.name]}"
        )
    encoded = tensor.name == ENCODED_NAME
    _check_shape(tensor.shape, () if encoded else spec.shape, where)
    place = regions.find(tensor.parameters, where)
    _check_place(request, where, shared=place is not None)
    return Input(request, where, encoded, tensor.shape[0], place)


def read_pixels(source: Input, spec: InputSpec, regions: Regions) -> Rows:
    """Pixels [count, H, W, C] that the request has as bytes.

    Raises: InvalidRequest, RegionNotFound.
    """
    if source.place is not None:  # what is not needed is not read
        _check_size(source.place.byte_size, source, spec)
    data = _elements(source, regions)
    _check_size(len(data), source, spec)
    return np.frombuffer(data, np.uint8).reshape(-1, *spec.shape)


def read_files(source: Input, regions: Regions) -> list[tuple[int, bytes]]:
    """Pairs of row and image file that the request has. Raises: InvalidRequest, RegionNotFound."""
    if not source.typed:
        return _split(_elements(source, regions), source)
    files = source.tensor.contents.bytes_contents
    _check_elements(len(files), source.count, "bytes_contents", source)
    return list(enumerate(files))


def typed_pixels(source: Input, rows: Rows) -> Iterator[Callable[[], None]]:
    """Steps that write the numbers of the request into `rows` [count, H, W, C], each for a thread.

    Raises: InvalidRequest, as do the steps.
    """
    have = len(source.tensor.contents.uint_contents)
    _check_elements(have, rows.size, "uint_contents", source)
    return (partial(_write_numbers, source, rows, begin) for begin in range(0, have, STEP))


def _write_numbers(source: Input, rows: Rows, start: int) -> None:
    values, out = source.tensor.contents.uint_contents, rows.reshape(-1)
    for begin in range(start, min(start + STEP, len(values)), CHUNK):
        numbers = values[begin : begin + CHUNK]
        try:
            out[begin : begin + CHUNK] = np.frombuffer(bytes(numbers), np.uint8)
        except ValueError:
            raise InvalidRequest(
                f"{source.where}: uint_contents: {max(numbers)}, must be 0 to 255"
            ) from None


def _elements(source: Input, regions: Regions) -> bytes:
    """The elements as they lie in memory."""
    if source.place is not None:
        return regions.read(source.place)
    return source.request.raw_input_contents[0]


def _split(data: bytes, source: Input) -> list[tuple[int, bytes]]:
    """The elements of a tensor of BYTES, each with its row."""
    files = []
    position = 0
    for row in range(source.count):
        begin = position + LENGTH_BYTES
        position = begin + int.from_bytes(data[position:begin], "little")
        if begin > len(data) or position > len(data):
            raise InvalidRequest(
                f"{source.where}: {len(data):,} bytes end within element {row} of {source.count}; "
                f"each is its length in {LENGTH_BYTES} bytes, the lowest first, and its bytes"
            )
        files.append((row, data[begin:position]))
    if position != len(data):
        more = len(data) - position
        raise InvalidRequest(
            f"{source.where}: {more:,} bytes more than its {source.count} elements"
        )
    return files


def _check_size(have: int, source: Input, spec: InputSpec) -> None:
    wanted = source.count * spec.nbytes
    if have != wanted:
        shape = list(source.tensor.shape)
        raise InvalidRequest(f"{source.where}: {have:,} bytes, its shape {shape} needs {wanted:,}")


def _check_elements(have: int, wanted: int, field: str, source: Input) -> None:
    if have != wanted:
        raise InvalidRequest(
            f"{source.where}: {have:,} elements in contents.{field}, its shape needs {wanted:,}"
        )


def _check_place(request: pb.ModelInferRequest, where: str, *, shared: bool) -> None:
    """Check that the elements stand in one place of the three."""
    raw, typed = len(request.raw_input_contents), request.inputs[0].HasField("contents")
    if raw and typed:
        raise InvalidRequest(f"{where}: contents beside raw_input_contents; give one of the two")
    if shared and typed:
        raise InvalidRequest(f"{where}: contents beside shared memory; give one of the two")
    wanted = 0 if shared or typed else 1
    if raw != wanted:
        reason = "it is in shared memory" if shared else "its elements"
        raise InvalidRequest(f"raw_input_contents: {raw}, must be {wanted} for {where}: {reason}")


def _check_shape(shape: Sequence[int], row: tuple[int, ...], where: str) -> None:
    if len(shape) != 1 + len(row) or tuple(shape[1:]) != row:
        raise InvalidRequest(
            f"{where}: shape {dimensions(shape)}, must be {dimensions(('N', *row))}"
        )
