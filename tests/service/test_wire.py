"""Counting the fields of serialised messages."""

from __future__ import annotations

import random

import pytest

from convoy.v1 import image_classifier_pb2 as pb
from service.wire import has_more_fields


@pytest.mark.parametrize("images", [0, 1, 7, 300])
def test_the_fields_of_a_request_are_counted(images: int) -> None:
    request = pb.ClassifyRequest(model="m", images=[pb.Image(encoded=b"x" * 200)] * images, top_k=3)
    data = request.SerializeToString()
    assert has_more_fields(data, images + 1)
    assert not has_more_fields(data, images + 2)


def test_every_wire_type_is_stepped_over() -> None:
    fields = b"\x08\xff\x01", b"\x11" + bytes(8), b"\x1a\x02ab", b"\x25" + bytes(4)
    data = b"".join(fields)
    assert has_more_fields(data, 3)
    assert not has_more_fields(data, 4)


def test_what_is_no_message_ends() -> None:
    noise = random.Random(0)
    for _ in range(500):
        has_more_fields(noise.randbytes(noise.randrange(200)), 50)
    assert not has_more_fields(b"\xff" * 100, 50)


def test_number_of_more_than_ten_bytes_is_none() -> None:
    fields = b"\x08\x01" * 9
    assert has_more_fields(b"\x88" + b"\x80" * 8 + b"\x00\x01" + fields, 5)
    assert not has_more_fields(b"\x88" + b"\x80" * 9 + b"\x00\x01" + fields, 5)


def test_fields_of_nested_messages_are_counted_where_asked() -> None:
    inner = b"\x12\x00" * 5
    data = b"\x0a\x02ab" + b"\x2a" + bytes([len(inner)]) + inner
    assert not has_more_fields(data, 2)
    assert has_more_fields(data, 6, {5: {}})
    assert not has_more_fields(data, 7, {5: {}})


def test_packed_numbers_are_bounded_where_asked() -> None:
    inner = b"\x1a\x05abcde"
    data = b"\x2a" + bytes([len(inner)]) + inner
    assert has_more_fields(data, 10, {5: {3: 4}})
    assert not has_more_fields(data, 10, {5: {3: 5}})


def test_fields_in_a_group_are_counted() -> None:
    assert has_more_fields(b"\x4b" + b"\x1a\x00" * 100 + b"\x4c", 50)
