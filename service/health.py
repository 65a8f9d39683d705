"""grpc.health.v1: one status for the server, the service and every model, by name."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Any

from grpc_health.v1 import health_pb2 as pb

from service.errors import InvalidRequest, ModelNotFound

SERVING = pb.HealthCheckResponse.SERVING
NOT_SERVING = pb.HealthCheckResponse.NOT_SERVING
UNKNOWN = pb.HealthCheckResponse.SERVICE_UNKNOWN

# The library's stubs are older than the messages of List.
_messages: Any = pb


class Health:
    """NOT_SERVING for "", the server as a whole, until `announce`, and again after `drain`."""

    def __init__(self) -> None:
        self._names = [""]
        self._status = NOT_SERVING
        self._drained = False
        self._changed = asyncio.Event()

    def announce(self, names: Iterable[str]) -> None:
        """Say SERVING for the server and each of these names, and for no others."""
        self._names = ["", *names]
        self._change(NOT_SERVING if self._drained else SERVING)

    def drain(self) -> None:
        """Say NOT_SERVING for all of them, for good."""
        self._drained = True
        self._change(NOT_SERVING)

    async def check(
        self, request: pb.HealthCheckRequest, *, deadline: float = math.inf
    ) -> pb.HealthCheckResponse:
        """The status of one name. Raises: ModelNotFound."""
        if request.service not in self._names:
            raise ModelNotFound("no service or model of this name")
        return pb.HealthCheckResponse(status=self._status)

    async def list(self, request: Any, *, deadline: float = math.inf) -> Any:
        """The status of every name."""
        status = pb.HealthCheckResponse(status=self._status)
        return _messages.HealthListResponse(statuses=dict.fromkeys(self._names, status))

    async def watch(
        self, requests: AsyncIterator[pb.HealthCheckRequest], *, deadline: float = math.inf
    ) -> AsyncGenerator[pb.HealthCheckResponse, None]:
        """The status of one name now and whenever it changes; SERVICE_UNKNOWN without one.

        Raises: InvalidRequest.
        """
        request, told = await anext(requests, None), None
        if request is None:
            raise InvalidRequest("the call has ended without a HealthCheckRequest; send one")
        while True:
            changed = self._changed
            status = self._status if request.service in self._names else UNKNOWN
            if status != told:
                yield pb.HealthCheckResponse(status=status)
                told = status
            await changed.wait()

    def _change(self, status: Any) -> None:
        self._status = status
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
