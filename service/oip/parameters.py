"""Parameters of requests, which the protocol types only when they are sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.errors import InvalidRequest
from service.oip import grpc_service_pb2 as pb

Parameters = Mapping[str, pb.InferParameter]


def number(parameters: Parameters, name: str, where: str) -> int:
    """A whole number of at least 0, signed on the wire or not; 0 where there is none.

    Raises: InvalidRequest; `where` names the tensor, if it is one's.
    """
    kind, value = _value(parameters, name)
    if kind in ("int64_param", "uint64_param") and value >= 0:
        return int(value)
    if kind is None:
        return 0
    raise InvalidRequest(f"{_at(where)}parameters[{name}]: must be a whole number of at least 0")


def text(parameters: Parameters, name: str, where: str) -> str:
    """A text; empty where there is none. Raises: InvalidRequest."""
    kind, value = _value(parameters, name)
    if kind == "string_param":
        return str(value)
    if kind is None:
        return ""
    raise InvalidRequest(f"{_at(where)}parameters[{name}]: must be a text (string_param)")


def _at(where: str) -> str:
    return f"{where}: " if where else ""


def _value(parameters: Parameters, name: str) -> tuple[str | None, Any]:
    if name not in parameters:
        return None, 0
    kind = parameters[name].WhichOneof("parameter_choice")
    return kind or "", getattr(parameters[name], kind) if kind else 0
