"""Elements of tensors: as they stand in JSON, and as they lie in memory."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np

from service.errors import InvalidRequest
from service.oip.inputs import LENGTH_BYTES
from service.rest.json import decoded

# The lowest byte first. FP16 and BF16 have no form in JSON.
NUMBERS = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
# What JSON may hold, by the kind of number.
_TYPES: dict[str, set[type]] = {"b": {bool}, "u": {int}, "i": {int}, "f": {int, float}}
BYTES = "BYTES"


def pack(data: list[Any], datatype: str, where: str) -> bytes:
    """Elements in JSON, nested or not, as they lie in memory. Raises: InvalidRequest."""
    flat = _flat(data)
    if datatype == BYTES:
        return join(_bytes(one, f"{where}: data[{index}]") for index, one in enumerate(flat))
    dtype = NUMBERS.get(datatype)
    if dtype is None:
        raise InvalidRequest(
            f"{where}: data: elements of datatype {datatype[:64]!r} cannot be sent as JSON; send "
            "them as binary data (binary_data_size)"
        )
    if not set(map(type, flat)) <= _TYPES[dtype.kind]:
        raise InvalidRequest(f"{where}: data: not all elements are numbers of type {datatype}")
    try:
        with np.errstate(over="ignore"):
            numbers = np.array(flat, dtype)
    except OverflowError:
        numbers = np.array(np.nan)
    if not np.isfinite(numbers).all():
        raise InvalidRequest(f"{where}: data: not all elements are in the range of {datatype}")
    return numbers.tobytes()


def unpack(data: bytes, datatype: str) -> list[Any]:
    """Elements as they lie in memory, for JSON."""
    if datatype == BYTES:
        return _split(data)
    values: list[Any] = np.frombuffer(data, NUMBERS[datatype]).tolist()
    return values


def join(parts: Iterable[bytes]) -> bytes:
    """Elements of a tensor of BYTES, each with its length before it."""
    return b"".join(
        chain.from_iterable((len(one).to_bytes(LENGTH_BYTES, "little"), one) for one in parts)
    )


def _split(data: bytes) -> list[str]:
    found, position = [], 0
    while position < len(data):
        begin = position + LENGTH_BYTES
        position = begin + int.from_bytes(data[position:begin], "little")
        found.append(data[begin:position].decode(errors="replace"))
    return found


def _flat(data: list[Any]) -> list[Any]:
    while data and set(map(type, data)) == {list}:
        data = list(chain.from_iterable(data))
    return data


def _bytes(value: object, where: str) -> bytes:
    """A string, or any bytes as an object with the one member `b64`. Raises: InvalidRequest."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict) and value.keys() == {"b64"}:
        return decoded(value["b64"], where)
    raise InvalidRequest(f'{where}: must be a string, or {{"b64": base64 of bytes}}')
