"""When a failed call is sent again, and which error it becomes when it is not."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from convoy.client.errors import (
    ClientError,
    Denied,
    InvalidRequest,
    NotFound,
    Overloaded,
    ServerError,
    Timeout,
    Unavailable,
)

PUSHBACK_KEY = "grpc-retry-pushback-ms"

_TAKEN_BACK = ("RESOURCE_EXHAUSTED", "UNAVAILABLE")
_UNREACHABLE = "failed to connect to all addresses"
_TOO_LARGE = "message larger than max"
# gRPC's own words in C++ and in Go, and those of the service.
_NO_METHOD = ("Method not found", "unknown ", "no method ")

# Every status code that gRPC has, by name; OK is no failure.
ERRORS: dict[str, type[ClientError]] = {
    "CANCELLED": Unavailable,
    "UNKNOWN": ServerError,
    "INVALID_ARGUMENT": InvalidRequest,
    "DEADLINE_EXCEEDED": Timeout,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": ServerError,
    "PERMISSION_DENIED": Denied,
    "RESOURCE_EXHAUSTED": Overloaded,
    "FAILED_PRECONDITION": InvalidRequest,
    "ABORTED": ServerError,
    "OUT_OF_RANGE": InvalidRequest,
    "UNIMPLEMENTED": Unavailable,
    "INTERNAL": ServerError,
    "UNAVAILABLE": Unavailable,
    "DATA_LOSS": ServerError,
    "UNAUTHENTICATED": Denied,
}


@dataclass(frozen=True, slots=True)
class Failure:
    """How a call failed, in plain values."""

    code: str
    """Name of the gRPC status code."""
    message: str
    pushback_ms: int | None = None
    """What the server said about trying again; negative: do not."""


def error_of(failure: Failure, target: str, timeout: float) -> ClientError:
    """What a call to `target` raises that has failed, in words for its caller.

    `timeout`: the seconds it had.
    """
    kind = ERRORS.get(failure.code, ServerError)
    if kind is Timeout:
        return no_answer(target, timeout)
    if failure.code == "UNIMPLEMENTED" and failure.message.startswith(_NO_METHOD):
        return Unavailable(f"{target}: no Convoy server, or an older one")
    if failure.message.startswith(_UNREACHABLE):
        reason = failure.message.rpartition(": ")[2]
        return Unavailable(f"{target}: no server answers there ({reason})")
    if _TOO_LARGE in failure.message:
        # gRPC has one code for this and for a full queue.
        return InvalidRequest(failure.message)
    detail = failure.message or f"the server answered {failure.code}"
    return kind(f"{target}: {detail}" if kind is Unavailable else detail)


def no_answer(target: str, timeout: float) -> Timeout:
    """The error of a call that was not done in time, in seconds."""
    return Timeout(f"{target}: no answer within {timeout:g} s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often and how fast a call is sent again, always within the caller's timeout.

    Classifying changes nothing on the server, so a call that it did not take may be repeated: one
    that failed with UNAVAILABLE, and one refused for overload by a server that says when to come
    back. Nothing else is retried. (That the images of a call are sent again without a bad one among
    them is another matter, which no setting turns off.)
    """

    attempts: int = 6
    """Calls at most while the server is unavailable; 1: never retry. A server that asks to come
    back later is obeyed until the timeout."""
    first_delay: float = 0.05
    """Seconds; doubles with every attempt, less up to half of it at random."""
    max_delay: float = 2.0
    """Seconds."""

    def delay(
        self, failure: Failure, attempt: int, *, uniform: Callable[[], float] = random.random
    ) -> float | None:
        """Seconds to wait after failed attempt number `attempt` (from 1); None: do not retry."""
        pushback = failure.pushback_ms
        if self.attempts <= 1 or (pushback is not None and pushback < 0):
            return None
        if pushback is not None and failure.code in _TAKEN_BACK:
            # Never sooner than asked, and not all callers at once.
            return max(pushback, 1) / 1000 * (1 + uniform() / 2)
        if failure.code == "UNAVAILABLE" and attempt < self.attempts:
            delay = self.first_delay * 2.0 ** min(attempt - 1, 30)
            return min(delay, self.max_delay) * (1 - uniform() / 2)
        return None


def parse_pushback(text: str | bytes) -> int:
    """Read the trailer's value; by gRPC's rules, one that is no number means "do not retry"."""
    try:
        return int(text)
    except ValueError:
        return -1
