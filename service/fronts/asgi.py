"""The front inside Envoy: gRPC, and REST beside it, as an ASGI application.

Framed here, not by a library: what the ones there are cost is in docs/architecture.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import aclosing
from time import monotonic

import structlog

from service.carrier import CallFailed, Carrier, Unary, failed
from service.errors import RequestError
from service.fronts.exchange import Exchange, Message, Receive, Send
from service.fronts.framing import Frames, timeout_seconds
from service.intake import Intake
from service.rest.application import Rest, failure_response
from service.rest.http import Departed, HttpError, Request, error_response
from service.rest.routes import serves
from service.rpcs import Rpc
from service.settings import Settings
from service.status import UNKNOWN_TEXT, Code
from service.stream_calls import Stream, carried

NOT_GRPC = error_response(
    415, "this port speaks gRPC, gRPC-Web, JSON by POST to /SERVICE/METHOD, and REST below /v2"
)

log = structlog.get_logger()


class AsgiFront:
    """Carries the methods as an ASGI application for pyvoy, which owns the port.

    An error must not get out of it: Envoy would tell the caller that all is well.
    """

    def __init__(self, settings: Settings) -> None:
        self.port = int(settings.grpc_address.rpartition(":")[2])
        self._most = settings.max_message_bytes
        self._intake = Intake(settings.max_queue_bytes)
        self._unary: dict[str, Unary] = {}
        self._stream: dict[str, Stream] = {}
        self._rest: Rest | None = None

    async def start(self, carrier: Carrier, rpcs: Iterable[Rpc]) -> None:
        """Begin to take calls."""
        rpcs = tuple(rpcs)
        self._intake.on_refusal = carrier.note_full
        self._rest = Rest(carrier, rpcs, max_bytes=self._most)
        for rpc in rpcs:
            path = f"/{rpc.service}/{rpc.method}"
            if rpc.kind == "unary":
                self._unary[path] = carrier.unary(rpc)
            else:
                self._stream[path] = carried(carrier, rpc)

    async def close(self) -> None:
        """Nothing to do: the port is Envoy's."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one call."""
        headers = dict(scope["headers"])
        call = Exchange(receive, send, self._intake)
        if not headers.get(b"content-type", b"").startswith(b"application/grpc"):
            await self._answer_http(scope, headers, call)
            return
        try:
            await self._answer(scope["path"], headers, call)
        except CallFailed as failure:
            await call.fail(failure)
        except RequestError as error:
            await call.fail(failed(error))
        except (Departed, OSError) as gone:  # OSError: what pyvoy raises when nobody is there
            gone.with_traceback(None)  # its frames hold it
        except asyncio.CancelledError:
            if call.expired:
                await call.fail(CallFailed(Code.DEADLINE_EXCEEDED, "the deadline has passed"))
        except Exception:
            log.exception("request_failed")
            await call.fail(CallFailed(Code.INTERNAL, UNKNOWN_TEXT))
        finally:
            call.close()

    async def _answer_http(
        self, scope: Message, headers: dict[bytes, bytes], call: Exchange
    ) -> None:
        assert self._rest is not None
        method, path = scope["method"], scope["path"]
        try:
            if serves(path):
                request = Request(method, path, headers, await call.body(self._most))
                response = await self._rest.answer(request)
                call.close()  # who is being answered is not to be cancelled
                await call.respond(response)
            else:
                await call.respond(NOT_GRPC)
        except HttpError as error:
            await call.respond(error.response)
        except RequestError as error:
            await call.respond(failure_response(failed(error)))
        except (Departed, asyncio.CancelledError):
            pass  # nobody is there
        except Exception:
            log.exception("request_failed")
            await call.respond(error_response(500, UNKNOWN_TEXT))
        finally:
            call.close()

    async def _answer(self, path: str, headers: dict[bytes, bytes], call: Exchange) -> None:
        frames = Frames(headers.get(b"grpc-encoding", b"identity"), self._most)
        deadline = monotonic() + timeout_seconds(headers.get(b"grpc-timeout"))
        if unary := self._unary.get(path):
            data = await call.only_message(frames, deadline)
            authorization = headers.get(b"authorization", b"").decode("latin-1")
            await call.answer(await unary(data, deadline, authorization))
        elif stream := self._stream.get(path):
            call.watch(deadline)
            async with aclosing(stream(call.messages(frames), deadline)) as responses:
                async for response in responses:
                    await call.add(response)
            await call.end()
        else:
            raise CallFailed(Code.UNIMPLEMENTED, f"no method {path}")
