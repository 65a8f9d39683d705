"""The one table from domain errors to status codes."""

from __future__ import annotations

from enum import IntEnum

import structlog

from service import errors

log = structlog.get_logger()


class Code(IntEnum):
    """The codes of google.rpc.Code that this service uses."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


CODES: dict[type[Exception], Code] = {
    errors.InvalidRequest: Code.INVALID_ARGUMENT,
    errors.ModelNotFound: Code.NOT_FOUND,
    errors.Unauthenticated: Code.UNAUTHENTICATED,
    errors.Unsupported: Code.UNIMPLEMENTED,
    errors.RegionNotFound: Code.NOT_FOUND,
    errors.RegionExists: Code.ALREADY_EXISTS,
    errors.LoadFailed: Code.FAILED_PRECONDITION,
    errors.QueueFull: Code.RESOURCE_EXHAUSTED,
    errors.QueueTooLong: Code.RESOURCE_EXHAUSTED,
    errors.TooManyStreams: Code.RESOURCE_EXHAUSTED,
    errors.OutOfMemory: Code.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: Code.DEADLINE_EXCEEDED,
    errors.NotServing: Code.UNAVAILABLE,
    errors.ModelFailure: Code.INTERNAL,
}

UNKNOWN_TEXT = "internal error; the server's log has the detail"


def status_of(error: Exception) -> tuple[Code, str]:
    """The code and the text a caller gets; an error that is not in the table says nothing."""
    code = CODES.get(type(error))
    return (code, str(error)) if code is not None else (Code.INTERNAL, UNKNOWN_TEXT)


def told(error: Exception, request_id: str) -> tuple[Code, str]:
    """`status_of` an error that has been handled; the log gets what it keeps from the caller.

    The error lets go of the frames that it came through. Where one of them waited for it, its
    future would hold the error, the error that frame, and that the future, with all the images.
    """
    code, text = status_of(error)
    if text == UNKNOWN_TEXT:
        log.exception("request_failed", request_id=request_id)
    error.with_traceback(None)
    return code, text


def pushback_ms(error: Exception) -> int | None:
    """Milliseconds for the trailer `grpc-retry-pushback-ms`, where trying again may help."""
    if isinstance(error, errors.Overloaded):
        return max(1, round(error.retry_after * 1000))
    return None
