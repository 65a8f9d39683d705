"""The load generator's HTTP/2, by the frames that it sends and is sent."""

from __future__ import annotations

from struct import pack

from benchmarks.http2 import Connection
from tests.service.http2 import DATA, FRAME, HEADERS, RST_STREAM, SETTINGS, frame

GOAWAY, WINDOW_UPDATE = 7, 8
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 3, 4


def connection(message: bytes = b"", calls: int = 1) -> Connection:
    """With the first calls made and sent."""
    made = Connection("localhost", "/service/Method", message, 1.5)
    for _ in range(calls):
        made.call(0.0, 0.0)
    return made


def sent(connection: Connection) -> list[tuple[int, int, int]]:
    """Type, stream and bytes of the frames that are to be sent; takes them away."""
    found = []
    while connection.out:
        high, low, kind, _, stream = FRAME.unpack_from(connection.out)
        size = (high << 16) + low
        found.append((kind, stream, size))
        del connection.out[: FRAME.size + size]
    return found


def test_the_server_is_told_the_deadline() -> None:
    assert b"grpc-timeout\x051500m" in connection().out


def test_a_reset_is_counted_by_its_name() -> None:
    made = connection()
    # Byte by byte: what is read ends anywhere.
    for byte in frame(RST_STREAM, 0, 1, pack(">I", 7)):
        made.receive(bytes([byte]), 1.0)
    assert [call.code for call in made.ended] == ["RST_STREAM REFUSED_STREAM"]


def test_a_server_that_goes_away_answers_what_it_has() -> None:
    made = connection(calls=2)
    made.receive(frame(GOAWAY, 0, 0, pack(">II", 1, 0)), 1.0)
    made.call(1.0, 1.0)
    assert [call.code for call in made.ended] == ["GOAWAY NO_ERROR"] * 2
    assert made.in_flight == 1
    made.close(2.0)
    assert made.in_flight == 0


def test_limits_of_the_server_are_kept() -> None:
    made = connection(bytes(100), calls=0)
    limits = pack(">HIHI", MAX_CONCURRENT_STREAMS, 1, INITIAL_WINDOW_SIZE, 10)
    made.receive(frame(SETTINGS, 0, 0, limits), 0.0)
    del made.out[:]
    for _ in range(2):
        made.call(0.0, 0.0)
    assert [(kind, stream) for kind, stream, _ in sent(made)] == [(HEADERS, 1), (DATA, 1)]
    made.receive(frame(WINDOW_UPDATE, 0, 1, pack(">I", 50)), 0.0)
    made.receive(frame(WINDOW_UPDATE, 0, 1, pack(">I", 50)), 0.0)
    assert sent(made) == [(DATA, 1, 50), (DATA, 1, 45)]
    made.receive(frame(RST_STREAM, 0, 1, pack(">I", 0)), 0.0)
    assert [(kind, stream) for kind, stream, _ in sent(made)] == [(HEADERS, 3), (DATA, 3)]
