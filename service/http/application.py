"""The ASGI application of the HTTP port."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from time import monotonic
from typing import Any

import structlog

from service.carrier import failed
from service.errors import RequestError
from service.http.operators import Operators
from service.intake import Holding, Intake, too_slow
from service.rest.application import Rest, failure_response
from service.rest.http import Departed, HttpError, Request, Response, error_response, too_large
from service.rest.routes import serves
from service.settings import Settings
from service.status import UNKNOWN_TEXT

Message = Any  # uvicorn has a type for each kind
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# How long the next part of a body may take.
BODY_SECONDS = 10.0
# Beyond the largest body, what is read and thrown away: a caller that is still sending when its
# connection is closed might not see the answer.
LINGER_BYTES = 64 * 2**20
CLOSE = (b"connection", b"close")

log = structlog.get_logger()


class Application:
    """Answers operators at once, and callers from the event loop that this was made on."""

    def __init__(
        self,
        operators: Operators,
        rest: Rest,
        on_refusal: Callable[[], None],
        settings: Settings,
    ) -> None:
        self._operators = operators
        self._rest = rest
        self._most = settings.max_message_bytes
        self._intake = Intake(settings.max_queue_bytes)
        self._access_log = settings.access_log
        self._loop = loop = asyncio.get_running_loop()
        self._intake.on_refusal = lambda: loop.call_soon_threadsafe(on_refusal)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            response = await self._response(scope, receive)
        except Departed:
            return
        except HttpError as error:
            response = error.response
        except Exception:
            log.exception("request_failed")
            response = error_response(500, UNKNOWN_TEXT)
        start = {"status": response.status, "headers": response.lines}
        await send({"type": "http.response.start", **start})
        await send({"type": "http.response.body", "body": response.body})

    async def _response(self, scope: Message, receive: Receive) -> Response:
        method, path, headers = scope["method"], scope["path"], dict(scope["headers"])
        if not serves(path):
            return await self._operators.answer(method, path, headers)
        began = monotonic()
        received, response = 0, None
        try:
            request = Request(method, path, headers, await self._body(receive))
            received = len(request.body)
            response = await self._cross(request, receive)
            return response
        except HttpError as error:
            response = error.response
            return response
        except RequestError as error:
            refused = failure_response(failed(error))
            response = replace(refused, headers=[*refused.headers, CLOSE])
            return response
        finally:
            if self._access_log:
                _note(scope, headers, began, received, response)

    async def _body(self, receive: Receive) -> bytes:
        body = _Body(self._most, self._intake)
        try:
            while body.more:
                try:
                    async with asyncio.timeout(BODY_SECONDS):
                        event = await receive()
                except TimeoutError:
                    body.check()
                    raise HttpError(408, "the body does not come", [CLOSE]) from None
                if event["type"] == "http.disconnect":
                    raise Departed
                body.add(event["body"], more=event["more_body"])
            return body.whole()
        finally:
            body.close()

    async def _cross(self, request: Request, receive: Receive) -> Response:
        """The answer from the other event loop, which is told when the caller leaves.

        Raises: Departed.
        """
        answer = asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(self._rest.answer(request), self._loop)
        )
        gone = asyncio.ensure_future(receive())  # which comes back but for that
        try:
            await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise Departed
            return answer.result()
        finally:
            gone.cancel()
            answer.cancel()


class _Body:
    """What has come of a body. It is read to its end where it is refused, too: see LINGER_BYTES."""

    def __init__(self, most: int, intake: Intake) -> None:
        self._most = most
        self._holding = Holding(intake, lambda: self._refuse(too_slow()))
        self._chunks: list[bytes] = []
        self._size = 0
        self._refusal: Exception | None = None
        self._ended = False

    @property
    def more(self) -> bool:
        """Whether to read on."""
        return not self._ended and self._size <= self._most + LINGER_BYTES

    def add(self, chunk: bytes, *, more: bool) -> None:
        """Take the next part."""
        self._size += len(chunk)
        self._ended = not more
        if self._size > self._most:
            self._refuse(too_large(self._most, [CLOSE]))
        elif self._refusal is None:
            self._chunks.append(chunk)
            try:
                self._holding.hold(self._size if more else 0)
            except RequestError as error:
                self._refuse(error)

    def check(self) -> None:
        """Raises: HttpError, InvalidRequest, QueueFull, where it was refused."""
        if self._refusal is not None:
            raise self._refusal

    def whole(self) -> bytes:
        """All of it. Raises: as `check`."""
        self.check()
        return b"".join(self._chunks)

    def close(self) -> None:
        """Hold nothing any more."""
        self._holding.close()
        self._chunks.clear()

    def _refuse(self, why: Exception) -> None:
        self._refusal = why
        self._chunks.clear()
        self._holding.hold(0)


def _note(
    scope: Message,
    headers: dict[bytes, bytes],
    began: float,
    received: int,
    response: Response | None,
) -> None:
    """Log a call, with the fields of the fronts; it has no response where the caller has left.

    Nor has it a peer where the caller had left before its address was asked for.
    """
    client = scope["client"]
    log.info(
        "call",
        path=scope["path"],
        http_status=response.status if response else None,
        milliseconds=round((monotonic() - began) * 1000),
        bytes_received=received,
        bytes_sent=len(response.body) if response else 0,
        peer="{}:{}".format(*client) if client else None,
        user_agent=headers.get(b"user-agent", b"").decode("latin-1") or None,
    )
