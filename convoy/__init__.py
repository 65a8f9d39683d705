"""Convoy's client library: photos in, labels out.

`convoy.bundle` and `convoy.imaging` are the core that training and serving share. Neither needs
gRPC, so the clients' modules are imported only when one of the names below is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convoy.client import ImageClient
    from convoy.client_async import AsyncImageClient
    from convoy.client_errors import (
        ClientError,
        Denied,
        InvalidRequest,
        NotFound,
        Overloaded,
        ServerError,
        Timeout,
        Unavailable,
    )
    from convoy.client_inputs import ImageInput
    from convoy.client_plan import Batching
    from convoy.client_retry import Retry
    from convoy.client_types import ClassScore, Model, Result, Timings
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
    "AsyncImageClient": "convoy.client_async",
    "Batching": "convoy.client_plan",
    "ClassScore": "convoy.client_types",
    "ConvoyError": "convoy.errors",
    "ImageClient": "convoy.client",
    "ImageInput": "convoy.client_inputs",
    "Model": "convoy.client_types",
    "Result": "convoy.client_types",
    "Retry": "convoy.client_retry",
    "Timings": "convoy.client_types",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, "convoy.client_errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
