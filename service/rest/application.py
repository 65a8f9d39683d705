"""What answers requests over HTTP, whichever server carries them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import TypeVar

import structlog
from google.protobuf.message import Message

from service import packing
from service.carrier import CallFailed, Carrier
from service.oip.table import INFERENCE
from service.rest.call import Call, Kind, Read
from service.rest.http import Headers, HttpError, Request, Response, error_response, too_large
from service.rest.routes import ENDPOINTS, Endpoint, find
from service.rpcs import Rpc, Sized
from service.status import UNKNOWN_TEXT, Code

# Triton's statuses, and the usual ones of codes that Triton does not have.
STATUSES = {
    Code.OK: 200,
    Code.CANCELLED: 400,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 400,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.UNAUTHENTICATED: 401,
}
PUSHBACK = "grpc-retry-pushback-ms"
# From here on, packing and unpacking is for another thread.
LARGE = 2**16

T = TypeVar("T")

log = structlog.get_logger()


class Rest:
    """Answers requests of the protocol through the methods that answer it over gRPC."""

    def __init__(self, carrier: Carrier, rpcs: Iterable[Rpc], *, max_bytes: int) -> None:
        self._most = max_bytes
        methods = {rpc.method: rpc for rpc in rpcs if rpc.service == INFERENCE}
        self._calls: dict[Endpoint, Callable[[Call, float, str], Awaitable[Message]]] = {}
        for endpoint in ENDPOINTS:
            rpc = methods[endpoint.rpc]
            read = partial(_read, endpoint.read, rpc.request)
            self._calls[endpoint] = carrier.translated(rpc, read, _as_it_is)

    async def answer(self, request: Request) -> Response:
        """Answer one request, whatever is wrong with it; to be cancelled when its caller leaves."""
        try:
            return await self._answer(request)
        except HttpError as error:
            return error.response
        except CallFailed as failure:
            return failure_response(failure)
        except Exception:
            log.exception("request_failed")
            return error_response(STATUSES[Code.INTERNAL], UNKNOWN_TEXT)

    async def _answer(self, request: Request) -> Response:
        endpoint, names = find(request.method, request.path)
        call = Call(names, request.headers, await self._unpacked(request))
        authorization = request.headers.get(b"authorization", b"").decode("latin-1")
        message = await self._calls[endpoint](call, math.inf, authorization)
        response = endpoint.write(call, message)
        return (
            await _packed(response, request.headers) if endpoint.rpc == "ModelInfer" else response
        )

    async def _unpacked(self, request: Request) -> bytes:
        encoding = request.headers.get(b"content-encoding", b"identity").lower()
        if encoding == b"identity":
            return request.take()
        if encoding not in packing.ENCODINGS:
            known = b", ".join(packing.ENCODINGS)
            raise HttpError(
                415,
                f"content-encoding: must be one of {known.decode()}",
                [(b"accept-encoding", known)],
            )
        try:
            return await _perhaps_in_thread(packing.unpack, request.take(), self._most)
        except packing.BadData as error:
            raise HttpError(400, f"the body cannot be unpacked: {error}") from None
        except packing.TooLarge:
            raise too_large(self._most) from None


async def _packed(response: Response, headers: Mapping[bytes, bytes]) -> Response:
    encoding = packing.preferred(headers.get(b"accept-encoding", b""))
    if encoding == packing.IDENTITY:
        return response
    body = await _perhaps_in_thread(packing.pack, response.body, encoding)
    return Response(response.status, body, [*response.headers, (b"content-encoding", encoding)])


async def _perhaps_in_thread(work: Callable[[bytes, T], bytes], data: bytes, how: T) -> bytes:
    return await asyncio.to_thread(work, data, how) if len(data) > LARGE else work(data, how)


def failure_response(failure: CallFailed) -> Response:
    """What a call that failed is in HTTP."""
    return error_response(STATUSES[failure.code], str(failure), _advice(failure))


def _advice(failure: CallFailed) -> Headers:
    """When to try again, in milliseconds and in the seconds of HTTP; or what to bring along."""
    if failure.code == Code.UNAUTHENTICATED:
        return [(b"www-authenticate", b"Bearer")]
    headers = [(name.encode(), value.encode()) for name, value in failure.trailers]
    if (milliseconds := dict(failure.trailers).get(PUSHBACK)) is not None:
        headers.append((b"retry-after", b"%d" % math.ceil(int(milliseconds) / 1000)))
    return headers


def _read(read: Read, kind: Kind, call: Call) -> Sized:
    message: Message = read(kind, call)
    call.body = b""  # it may be large, and the message holds a copy
    return message, message.ByteSize()


def _as_it_is(message: Message) -> Message:
    return message
