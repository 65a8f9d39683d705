"""One request on its way to a method and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from service.oip import grpc_service_pb2 as pb
from service.rest.http import Response


@dataclass(slots=True)
class Call:
    """A request whose path has been taken apart and whose body is unpacked."""

    names: Mapping[str, str | None]
    headers: Mapping[bytes, bytes]
    body: bytes
    request: pb.ModelInferRequest = field(default_factory=pb.ModelInferRequest)
    """What was read of it, where the answer depends on that."""

    def name(self, part: str) -> str:
        """A name in the path; empty where there is none."""
        return self.names.get(part) or ""


Told = Any
"""A message, whose class and fields only running code knows."""

Kind = Callable[..., Told]
Read = Callable[[Kind, Call], Told]
Write = Callable[[Call, Told], Response]
