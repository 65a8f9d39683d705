"""A look at a serialised message before it is parsed."""

from __future__ import annotations

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def has_more_fields(data: bytes, most: int) -> bool:
    """Whether a protobuf message has more than `most` fields at its top level.

    A parser builds an object for every element of a repeated field, so that 64 MiB of empty images
    would become gigabytes. What is no message is left for the parser to refuse. See the protobuf
    encoding specification, "Message Structure".
    """
    position, count = 0, 0
    try:
        while position < len(data):
            tag, position = _varint(data, position)
            position = _after_value(data, position, tag & 7)
            count += 1
            if count > most:
                return True
    except (IndexError, ValueError):
        pass
    return False


def _after_value(data: bytes, position: int, kind: int) -> int:
    if kind == _VARINT:
        return _varint(data, position)[1]
    if kind == _LENGTH:
        length, position = _varint(data, position)
        return position + length
    if kind in (_FIXED32, _FIXED64):
        return position + (4 if kind == _FIXED32 else 8)
    raise ValueError(kind)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
