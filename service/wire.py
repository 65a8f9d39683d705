"""A look at a serialised message before it is parsed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_VARINT, _FIXED64, _LENGTH, _GROUP, _END_OF_GROUP, _FIXED32 = range(6)

# Bits of the longest number, in groups of seven.
_MOST_BITS = 70

Nested = Mapping[int, Any]
"""Numbers of fields that are messages to be looked into, each with its own; or, where there is a
number instead, of packed fields, whose elements are not counted but their bytes bounded."""

NONE: Nested = {}


def has_more_fields(data: bytes, most: int, nested: Nested = NONE) -> bool:
    """Whether a protobuf message has more than `most` fields, those in `nested` ones included.

    A parser builds an object for every element of a repeated field, so that 64 MiB of empty images
    would become gigabytes. What is no message is left for the parser to refuse. See the protobuf
    encoding specification, "Message Structure".
    """
    try:
        return _count(data, 0, len(data), most, nested) > most
    except (IndexError, ValueError):
        return False


def _count(data: bytes, position: int, end: int, most: int, nested: Nested) -> int:
    """Fields between two positions; where there are more than `most`, any number above it."""
    count = 0
    while position < end and count <= most:
        tag, begin = _varint(data, position)
        position = _after_value(data, begin, tag & 7)
        count += 1
        inner = nested.get(tag >> 3)
        if inner is not None and tag & 7 == _LENGTH:
            length, begin = _varint(data, begin)
            if not isinstance(inner, int):
                count += _count(data, begin, position, most - count, inner)
            elif length > inner:
                return most + 1
    return count


def _after_value(data: bytes, position: int, kind: int) -> int:
    if kind == _VARINT:
        return _varint(data, position)[1]
    if kind == _LENGTH:
        length, position = _varint(data, position)
        return position + length
    if kind in (_FIXED32, _FIXED64):
        return position + (4 if kind == _FIXED32 else 8)
    if kind in (_GROUP, _END_OF_GROUP):  # of no use any more, but parsers take them
        return position
    raise ValueError(kind)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, _MOST_BITS, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number without an end")
