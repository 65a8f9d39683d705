"""What operators tell a running server about its models."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc

from convoy.client.base import as_name, as_target, as_timeout, as_version, check_open
from convoy.client.channel import failure_of, open_channel
from convoy.client.errors import InvalidRequest
from convoy.client.retry import error_of
from convoy.v1 import model_control_pb2 as pb

_SERVICE = "/convoy.v1.ModelControl/"


@dataclass(frozen=True, slots=True)
class ModelState:
    """What a server serves of one model."""

    model: str
    live_version: int | None
    """The version that answers requests that name none; None where the model is not served."""
    versions: tuple[int, ...]
    """All that are loaded, ascending."""


class ModelControl:
    """Loads, unloads and promotes models on a server that was started with this token.

    `timeout` is in seconds, for one call: loading takes as long as the model does. Every method
    raises ClientError: Denied for a wrong token, NotFound, InvalidRequest where it cannot be done.
    """

    def __init__(
        self,
        target: str,
        token: str,
        *,
        timeout: float = 300.0,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        if not token.isascii() or not token.isprintable():
            raise InvalidRequest("the control token must be printable ASCII")
        self.target = as_target(target)
        self._timeout = as_timeout(timeout)
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._channel = open_channel(target, credentials)
        self._closed = False

    def load(self, model: str) -> ModelState:
        """Serve a model as the server's folder has it now."""
        return self._call("Load", pb.LoadRequest(model=as_name("model", model)))

    def unload(self, model: str) -> ModelState:
        """Stop to serve a model, until it is loaded again."""
        return self._call("Unload", pb.UnloadRequest(model=as_name("model", model)))

    def promote(self, model: str, version: int | None = None) -> ModelState:
        """Have a version, by default the challenger, answer the requests that name none."""
        if isinstance(version, str):
            raise InvalidRequest(f"version is {version!r}; promote takes a number")
        number, _ = as_version(version)
        return self._call(
            "Promote", pb.PromoteRequest(model=as_name("model", model), version=number)
        )

    def rollback(self, model: str) -> ModelState:
        """End the trial of a challenger; where there is none, return to the version before."""
        return self._call("Rollback", pb.RollbackRequest(model=as_name("model", model)))

    def close(self) -> None:
        """Close the connection."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _call(self, method: str, request: Any) -> ModelState:
        check_open(self._closed)
        call: Any = self._channel.unary_unary(
            _SERVICE + method,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=pb.ModelState.FromString,
        )
        try:
            state = call(request, timeout=self._timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise error_of(failure_of(error), self.target, self._timeout) from None
        return ModelState(state.model, state.live_version or None, tuple(state.versions))
