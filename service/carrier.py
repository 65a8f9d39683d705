"""What every front does for a call: count it, parse it, and turn its errors into statuses.

That of a streamed call is `service/stream_calls.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from service.deadlines import why_gone
from service.errors import InvalidRequest
from service.gate import Gate
from service.metrics import MethodMetrics, Metrics
from service.rpcs import Rpc, Sized
from service.status import Code, pushback_ms, told
from service.wire import has_more_fields

# A message of this size is parsed without a look at it first.
SMALL_MESSAGE = 2**16
# More than a request has beside its images.
OTHER_FIELDS = 16
POLL_SECONDS = 0.02
# While draining: no call for this long means that the callers have gone elsewhere.
QUIET_SECONDS = 0.1
# After the last accepted answer: how long callers that keep coming are told UNAVAILABLE.
LAME_DUCK_SECONDS = 2.0

Source = TypeVar("Source")
Answer = TypeVar("Answer")

Unary = Callable[[bytes, float, str], Awaitable[bytes]]


class CallFailed(Exception):
    """A call ends with this status; the text and the trailers are for its caller."""

    def __init__(self, code: Code, text: str, trailers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(text)
        self.code = code
        self.trailers = trailers


class Carrier:
    """Carries calls between the bytes of a front and the methods.

    What a front is given takes messages as bytes, the deadline, of the monotonic clock, and for a
    unary call its header `authorization`. It raises CallFailed, and is to be cancelled when the
    caller has left or the deadline has passed.
    """

    def __init__(self, metrics: Metrics, gate: Gate, *, max_images: int) -> None:
        self._metrics = metrics
        self._gate = gate
        self._max_fields = max_images + OTHER_FIELDS
        self._methods: dict[tuple[str, str], MethodMetrics] = {}
        self._draining = False
        self._arrived = 0
        self._accepted = 0

    def unary(self, rpc: Rpc) -> Unary:
        """One request, one response."""
        return self.translated(
            rpc, lambda data: self.parse(rpc, data), lambda message: message.SerializeToString()
        )

    def translated(
        self, rpc: Rpc, read: Callable[[Source], Sized], write: Callable[[Message], Answer]
    ) -> Callable[[Source, float, str], Awaitable[Answer]]:
        """As `unary`, from what `read` reads a request of to what `write` makes of its response.

        `read` may raise InvalidRequest: reading is part of the call, and counted as that.
        """
        counts = self.counts(rpc)

        async def carry(source: Source, deadline: float, authorization: str) -> Answer:
            start = monotonic()
            counts.started += 1
            accepted = self.arrive()
            code = Code.OK
            message: Message | None = None
            failure: CallFailed | None = None
            try:
                if rpc.control:
                    self._gate.check(authorization)
                request = self.read(read, source)
                message = request[0]
                return write(await rpc.call(request if rpc.sized else message, deadline=deadline))
            except asyncio.CancelledError:
                code = gone(deadline)
                raise
            except Exception as error:
                failure = failed(error, _id(message))
                code = failure.code
                raise failure from None
            finally:
                failure = None  # else it and this frame would hold each other, and the message
                counts.finish(code.name, monotonic() - start)
                self.answered(accepted)

        return carry

    async def drain(self, timeout: float) -> bool:
        """Wait for the answers to all requests accepted so far, and see the others refused.

        The methods refuse new requests by now, and go on doing so for a while. Streams that wait
        for nothing (health watches, idle callers) are not waited for.

        Returns: whether all was answered within `timeout` seconds.
        """
        self._draining = True
        end = monotonic() + timeout
        while self._accepted > 0 and monotonic() < end:
            await asyncio.sleep(POLL_SECONDS)
        complete = self._accepted == 0
        end = min(end, monotonic() + LAME_DUCK_SECONDS)
        seen = -1
        while complete and seen != self._arrived and monotonic() < end:
            seen = self._arrived
            await asyncio.sleep(QUIET_SECONDS)  # in which the last answers go onto the wire
        return complete

    def note_full(self) -> None:
        """Count a request that was refused before all of it had come."""
        self._metrics.rejected["queue_full"] += 1

    def counts(self, rpc: Rpc) -> MethodMetrics:
        """The counts of a method, the same for all that carry its calls."""
        name = (rpc.service, rpc.method)
        if name not in self._methods:
            make = self._metrics.method if rpc.counted else MethodMetrics
            self._methods[name] = make(rpc.kind, rpc.service, rpc.method)
        return self._methods[name]

    def arrive(self) -> int:
        """Count a request; returns how much of it is to be answered before the end: 1, or 0."""
        self._arrived += 1
        accepted = 0 if self._draining else 1
        self._accepted += accepted
        return accepted

    def answered(self, accepted: int) -> None:
        """Count the end of as much as `arrive` returned."""
        self._accepted -= accepted

    def read(self, read: Callable[[Source], Sized], source: Source) -> Sized:
        """What `read` makes of it; an InvalidRequest, which it may raise, is counted."""
        try:
            return read(source)
        except InvalidRequest:
            self._metrics.rejected["invalid"] += 1
            raise

    def parse(self, rpc: Rpc, data: bytes) -> Sized:
        """The request of a method. Raises: InvalidRequest."""
        try:
            if len(data) > SMALL_MESSAGE and has_more_fields(data, self._max_fields, rpc.nested):
                raise InvalidRequest(
                    f"the message has more than {self._max_fields} fields, or a longer list of "
                    "numbers than any input takes"
                )
            return rpc.request.FromString(data), len(data)
        except DecodeError:
            name = rpc.request.DESCRIPTOR.full_name
            raise InvalidRequest(f"the request is not a {name} message") from None


def _id(message: Message | None) -> str:
    return getattr(message, "request_id", "") or getattr(message, "id", "")


def gone(deadline: float) -> Code:
    """How a call ends that is cancelled."""
    return Code.DEADLINE_EXCEEDED if why_gone(deadline) == "deadline" else Code.CANCELLED


def failed(error: Exception, request_id: str = "") -> CallFailed:
    """How a call ends for which this was raised."""
    if isinstance(error, CallFailed):
        return error
    code, text = told(error, request_id)
    pushback = pushback_ms(error)
    trailers = (("grpc-retry-pushback-ms", str(pushback)),) if pushback is not None else ()
    return CallFailed(code, text, trailers)
