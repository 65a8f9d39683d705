"""Just enough HTTP/2 to make one gRPC call again and again at little cost (RFC 9113 and 7541).

No sockets here: `out` holds what is to be sent, `receive` takes what came, and `ended` is what
became of the calls. Headers are never put into HPACK's tables, in neither direction: so the
request's are the same bytes each time, and an answer's can be looked up by theirs.
"""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from struct import Struct
from typing import NamedTuple

import grpc
import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME = Struct(">BHBBI")  # length in three bytes, type, flags, stream
SETTING = Struct(">HI")
NUMBER = Struct(">I")
MESSAGE = Struct(">BI")  # gRPC's: not compressed, length
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK = END_STREAM = 1
END_HEADERS, PADDED, PRIORITY = 4, 8, 32
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 1, 2, 3, 4
FRAME_BYTES = 2**14  # the most that any server takes
WINDOW = 2**16 - 1  # of a stream and of the connection, until something else is agreed
OUR_WINDOW = 2**30  # far more than any answer: none is to wait for us
ERRORS = (
    *("NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT"),
    *("STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR"),
    *("CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"),
)
STATUSES = {str(code.value[0]).encode(): code.name for code in grpc.StatusCode}


class Call(NamedTuple):
    """A call that has ended; moments in seconds of `time.perf_counter`."""

    code: str
    """A status of gRPC, or "RST_STREAM", "GOAWAY" and HTTP/2's name of the error, or "CLOSED"."""
    due: float
    sent: float
    ended: float


@dataclass(slots=True)
class _Stream:
    due: float
    sent: float
    unsent: int  # bytes of the body
    window: int = 0


class Connection:
    """Makes the same call again and again, each with `deadline` seconds to be answered."""

    def __init__(self, authority: str, path: str, message: bytes, deadline: float) -> None:
        self.ended: list[Call] = []
        self.broken = ""
        """Why no more calls can be made; empty while they can."""
        self._headers = _request_headers(authority, path, deadline)
        self._body = MESSAGE.pack(0, len(message)) + message
        self._deadline = deadline
        self._next, self._limit = 1, sys.maxsize
        self._window = self._first_window = WINDOW
        self._uncredited, self._rest = 0, b""
        # All three with the oldest first; the second is of those that wait for a window.
        self._streams: dict[int, _Stream] = {}
        self._stuck: dict[int, _Stream] = {}
        self._queue: deque[_Stream] = deque()
        ours = ((HEADER_TABLE_SIZE, 0), (ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, OUR_WINDOW))
        self.out = bytearray(PREFACE)
        self._send(SETTINGS, 0, 0, b"".join(SETTING.pack(*one) for one in ours))
        self._send(WINDOW_UPDATE, 0, 0, NUMBER.pack(OUR_WINDOW - WINDOW))

    @property
    def in_flight(self) -> int:
        """How many calls have not ended."""
        return len(self._streams) + len(self._queue)

    @property
    def expiry(self) -> float:
        """When the oldest call is over its deadline; infinity where none is in flight."""
        oldest = next(chain(self._streams.values(), self._queue), None)
        return float("inf") if oldest is None else oldest.sent + self._deadline

    def call(self, due: float, now: float) -> None:
        """Begin the call that should have begun at `due`."""
        stream = _Stream(due, now, len(self._body))
        if self.broken:
            self._note(stream, self.broken, now)
        else:
            self._queue.append(stream)
            self._open_streams()

    def expire(self, now: float) -> None:
        """End calls that are over their deadline, as gRPC's clients do of themselves."""
        while self.expiry <= now:
            if not self._streams:
                self._note(self._queue.popleft(), "DEADLINE_EXCEEDED", now)
                continue
            number = next(iter(self._streams))
            self._reset(number)
            self._end(number, "DEADLINE_EXCEEDED", now)

    def close(self, now: float) -> None:
        """End all calls: the server has closed the connection."""
        self.out.clear()
        self._go_away(0, self.broken or "CLOSED", now)

    def receive(self, data: bytes, now: float) -> None:
        """Take what came from the server."""
        data = self._rest + data
        begin = 0
        while len(data) >= begin + FRAME.size:
            high, low, kind, flags, number = FRAME.unpack_from(data, begin)
            end = begin + FRAME.size + (high << 16) + low
            if end > len(data):
                break
            self._take(kind, flags, number, data[begin + FRAME.size : end], now)
            begin = end
        self._rest = data[begin:]

    def _take(self, kind: int, flags: int, number: int, payload: bytes, now: float) -> None:
        if kind == HEADERS:
            self._take_headers(flags, number, payload, now)
        elif kind == DATA:
            self._credit(len(payload))
            if flags & END_STREAM:
                self._end(number, "UNKNOWN", now)
        elif kind == WINDOW_UPDATE:
            self._take_window(number, *NUMBER.unpack(payload))
        elif kind == RST_STREAM:
            self._end(number, f"RST_STREAM {_error(payload)}", now)
        elif kind == GOAWAY:
            last = NUMBER.unpack_from(payload)[0]
            self._go_away(last, f"GOAWAY {_error(payload[4:8])}", now)
        elif kind == SETTINGS and not flags & ACK:
            self._take_settings(payload)
        elif kind == PING and not flags & ACK:
            self._send(PING, ACK, 0, payload)

    def _take_headers(self, flags: int, number: int, payload: bytes, now: float) -> None:
        if flags & (END_HEADERS | PADDED | PRIORITY) != END_HEADERS:
            raise NotImplementedError("headers with padding, a priority or in several frames")
        if flags & END_STREAM:
            if number in self._stuck:  # it is answered all the same
                self._reset(number)
            self._end(number, _status(payload), now)

    def _take_window(self, number: int, more: int) -> None:
        if number == 0:
            self._window += more
        elif number in self._streams:
            self._streams[number].window += more
        for one, stream in list(self._stuck.items()):
            self._send_body(one, stream)

    def _take_settings(self, payload: bytes) -> None:
        theirs = dict(SETTING.iter_unpack(payload))
        more = theirs.get(INITIAL_WINDOW_SIZE, self._first_window) - self._first_window
        self._first_window += more
        for stream in self._streams.values():
            stream.window += more
        self._limit = theirs.get(MAX_CONCURRENT_STREAMS, self._limit)
        self._send(SETTINGS, ACK, 0, b"")
        self._take_window(0, 0)
        self._open_streams()

    def _credit(self, size: int) -> None:
        self._uncredited += size
        if self._uncredited > OUR_WINDOW // 2:
            self._send(WINDOW_UPDATE, 0, 0, NUMBER.pack(self._uncredited))
            self._uncredited = 0

    def _go_away(self, last: int, why: str, now: float) -> None:
        self.broken = why
        while self._queue:
            self._note(self._queue.popleft(), why, now)
        for number in [one for one in self._streams if one > last]:
            self._end(number, why, now)

    def _open_streams(self) -> None:
        while self._queue and len(self._streams) < self._limit:
            stream = self._queue.popleft()
            number, self._next = self._next, self._next + 2
            stream.window = self._first_window
            self._streams[number] = stream
            self._send(HEADERS, END_HEADERS, number, self._headers)
            self._send_body(number, stream)

    def _send_body(self, number: int, stream: _Stream) -> None:
        """Send what the windows of the stream and of the connection let through."""
        while (size := min(stream.unsent, FRAME_BYTES, stream.window, self._window)) > 0:
            begin = len(self._body) - stream.unsent
            stream.unsent -= size
            stream.window -= size
            self._window -= size
            flags = 0 if stream.unsent else END_STREAM
            self._send(DATA, flags, number, self._body[begin : begin + size])
        if stream.unsent:
            self._stuck[number] = stream
        else:
            self._stuck.pop(number, None)

    def _reset(self, number: int) -> None:
        self._send(RST_STREAM, 0, number, NUMBER.pack(ERRORS.index("CANCEL")))

    def _send(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        size = len(payload)
        self.out += FRAME.pack(size >> 16, size & 0xFFFF, kind, flags, number)
        self.out += payload

    def _end(self, number: int, code: str, now: float) -> None:
        stream = self._streams.pop(number, None)
        if stream is None:  # it was over its deadline before
            return
        self._stuck.pop(number, None)
        self._note(stream, code, now)
        self._open_streams()

    def _note(self, stream: _Stream, code: str, now: float) -> None:
        self.ended.append(Call(code, stream.due, stream.sent, now))


def _request_headers(authority: str, path: str, deadline: float) -> bytes:
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":authority": authority,
        ":path": path,
        "content-type": "application/grpc",
        "te": "trailers",
        "grpc-timeout": f"{deadline * 1e3:.0f}m",
    }
    headers = [hpack.NeverIndexedHeaderTuple(*field) for field in fields.items()]
    return hpack.Encoder().encode(headers, huffman=False)


@lru_cache(maxsize=1024)
def _status(block: bytes) -> str:
    """The name of the status in an answer's last headers."""
    fields = dict(hpack.Decoder().decode(block, raw=True))
    return STATUSES.get(fields.get(b"grpc-status", b""), "UNKNOWN")


def _error(payload: bytes) -> str:
    (number,) = NUMBER.unpack(payload)
    return ERRORS[number] if number < len(ERRORS) else str(number)
