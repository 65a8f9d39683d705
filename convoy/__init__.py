"""Convoy's client library: photos in, labels out.

`convoy.bundle` and `convoy.imaging` are the core that training and serving share. Neither needs
gRPC, so the clients' modules are imported only when one of the names below is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convoy.client.aio import AsyncImageClient
    from convoy.client.chunks import Batching
    from convoy.client.control import ModelControl, ModelState
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
    from convoy.client.inputs import ImageInput
    from convoy.client.retry import Retry
    from convoy.client.sync import ImageClient
    from convoy.client.types import ClassScore, Model, Result, Timings
    from convoy.errors import ConvoyError

__all__ = [
    "AsyncImageClient",
    "Batching",
    "ClassScore",
    "ClientError",
    "ConvoyError",
    "Denied",
    "ImageClient",
    "ImageInput",
    "InvalidRequest",
    "Model",
    "ModelControl",
    "ModelState",
    "NotFound",
    "Overloaded",
    "Result",
    "Retry",
    "ServerError",
    "Timeout",
    "Timings",
    "Unavailable",
]

_HOMES = {
    "AsyncImageClient": "convoy.client.aio",
    "Batching": "convoy.client.chunks",
    "ClassScore": "convoy.client.types",
    "ConvoyError": "convoy.errors",
    "ImageClient": "convoy.client.sync",
    "ImageInput": "convoy.client.inputs",
    "Model": "convoy.client.types",
    "ModelControl": "convoy.client.control",
    "ModelState": "convoy.client.control",
    "Result": "convoy.client.types",
    "Retry": "convoy.client.retry",
    "Timings": "convoy.client.types",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, "convoy.client.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
