"""gRPC's messages, timeouts and statuses, as the front inside Envoy reads and writes them."""

from __future__ import annotations

import gzip
import math
import zlib

import pytest

from service.carrier import CallFailed
from service.fronts.framing import PREFIX, Frames, frame, status_headers, timeout_seconds
from service.status import Code

MESSAGES = [b"one", b"", b"x" * 1000]


def taken(
    body: bytes, step: int, *, encoding: bytes = b"identity", most: int = 1000
) -> list[bytes]:
    """The messages of a body that comes in chunks of `step` bytes."""
    frames, messages = Frames(encoding, most), []
    for start in range(0, len(body), step):
        frames.feed(body[start : start + step])
        while (message := frames.take()) is not None:
            messages.append(message)
    frames.end()
    return messages


@pytest.mark.parametrize("step", [1, 3, 7, 10_000])
def test_messages_come_out_as_they_went_in(step: int) -> None:
    assert taken(b"".join(map(frame, MESSAGES)), step) == MESSAGES


@pytest.mark.parametrize(
    ("encoding", "pack"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress)]
)
def test_packed_messages_are_unpacked(encoding: bytes, pack) -> None:
    packed = [pack(message) for message in MESSAGES]
    body = b"".join(PREFIX.pack(1, len(one)) + one for one in packed)
    assert taken(body, 50, encoding=encoding) == MESSAGES


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        (PREFIX.pack(0, 1001), Code.RESOURCE_EXHAUSTED, "1,001 bytes or more"),
        (frame(b"abc")[:-1], Code.INVALID_ARGUMENT, "ends within a message"),
        (PREFIX.pack(1, 3) + b"abc", Code.INVALID_ARGUMENT, "cannot be unpacked"),
    ],
)
def test_a_wrong_body_is_refused(body: bytes, code: Code, text: str) -> None:
    with pytest.raises(CallFailed, match=text) as failure:
        taken(body, 10_000, encoding=b"gzip")
    assert failure.value.code is code


def test_a_packed_message_is_bounded_before_it_is_unpacked() -> None:
    bomb = gzip.compress(bytes(10_000_000))
    with pytest.raises(CallFailed) as failure:
        taken(PREFIX.pack(1, len(bomb)) + bomb, 10_000, encoding=b"gzip", most=100_000)
    assert failure.value.code is Code.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("more", [gzip.compress(b"def"), b"garbage"], ids=["another", "garbage"])
def test_what_follows_a_packed_message_is_not_left_out_without_a_word(more: bytes) -> None:
    packed = gzip.compress(b"abc") + more
    with pytest.raises(CallFailed, match="something follows its end") as failure:
        taken(PREFIX.pack(1, len(packed)) + packed, 10_000, encoding=b"gzip")
    assert failure.value.code is Code.INVALID_ARGUMENT


def test_a_packed_message_that_ends_too_early_is_refused() -> None:
    packed = gzip.compress(b"abc")[:-1]
    with pytest.raises(CallFailed, match="ends too early") as failure:
        taken(PREFIX.pack(1, len(packed)) + packed, 10_000, encoding=b"gzip")
    assert failure.value.code is Code.INVALID_ARGUMENT


def test_a_message_that_is_packed_without_saying_how_is_refused() -> None:
    packed = gzip.compress(b"abc")
    with pytest.raises(CallFailed) as failure:
        taken(PREFIX.pack(1, len(packed)) + packed, 10_000)
    assert failure.value.code is Code.INVALID_ARGUMENT


def test_an_encoding_that_is_not_known_is_refused() -> None:
    with pytest.raises(CallFailed, match="snappy") as failure:
        Frames(b"snappy", 1000)
    assert failure.value.code is Code.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(b"2H", 7200), (b"3M", 180), (b"5S", 5), (b"250m", 0.25), (b"7u", 7e-6), (b"9n", 9e-9)],
)
def test_timeouts(header: bytes, seconds: float) -> None:
    assert timeout_seconds(header) == pytest.approx(seconds)
    assert timeout_seconds(None) == math.inf


@pytest.mark.parametrize("header", [b"", b"S", b"5", b"-5S", b"5s", b"123456789S"])
def test_a_wrong_timeout_is_refused(header: bytes) -> None:
    with pytest.raises(CallFailed, match="grpc-timeout"):
        timeout_seconds(header)


def test_a_status_is_sent_as_printable_ascii() -> None:
    failure = CallFailed(Code.NOT_FOUND, "100% of Größe\n", (("grpc-retry-pushback-ms", "7"),))
    assert status_headers(failure) == [
        (b"grpc-status", b"5"),
        (b"grpc-message", b"100%25 of Gr%C3%B6%C3%9Fe%0A"),
        (b"grpc-retry-pushback-ms", b"7"),
    ]
