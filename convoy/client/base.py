"""What both clients are told, and how they take their inputs."""

from __future__ import annotations

import math
from typing import Any

from convoy.client.chunks import Batching, CallLimits
from convoy.client.errors import ClientError, InvalidRequest, Unavailable
from convoy.client.inputs import is_one_image
from convoy.client.plan import Planner
from convoy.client.retry import Retry
from convoy.client.types import Result

DEFAULT_TARGET = "127.0.0.1:8500"
# A year, in seconds: gRPC takes a deadline of some centuries for one that has passed.
LONGEST_TIMEOUT = 365 * 86_400.0
_WEB_SCHEMES = ("http", "https", "grpc", "grpcs")


class ClientBase:
    """The settings of a client; see `ImageClient` for their meaning."""

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        model: str | None = None,
        version: int | str | None = None,
        routing_key: str = "",
        priority: int | None = None,
        timeout: float = 30.0,
        retry: Retry | None = None,
        batching: Batching | None = None,
    ) -> None:
        self.target = as_target(target)
        self._closed = False
        number, label = as_version(version)
        self._planner = Planner(
            target=target,
            model=as_name("model", model or ""),
            version=number,
            label=label,
            routing_key=as_name("routing_key", routing_key),
            priority=0 if priority is None else _positive("priority", priority, 2**32 - 1),
            timeout=as_timeout(timeout),
            retry=retry or Retry(),
            limits=CallLimits(batching or Batching()),
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.target!r})"

    def _check_open(self) -> None:
        check_open(self._closed)

    def _check_not_closed_meanwhile(self) -> None:
        """As `_check_open`, for a call that had begun. Raises: Unavailable."""
        if self._closed:
            raise Unavailable("the client was closed")


def check_open(closed: bool) -> None:
    """Raises: ClientError."""
    if closed:
        raise ClientError("the client is closed; make a new one")


def as_target(target: str) -> str:
    """A server's address. Raises: InvalidRequest."""
    if not as_name("target", target):
        raise InvalidRequest("target is empty; give host:port")
    scheme, separator, _ = target.partition("://")
    if separator and scheme.lower() in _WEB_SCHEMES:
        raise InvalidRequest(f"{target}: give host:port, without {scheme}://")
    return target


def as_timeout(timeout: float) -> float:
    """Seconds that gRPC understands. Raises: InvalidRequest."""
    if not (timeout > 0 and math.isfinite(timeout)):
        raise InvalidRequest(f"timeout is {timeout!r}; it must be a number of seconds above 0")
    return min(timeout, LONGEST_TIMEOUT)


def as_many(images: Any) -> Any:
    """Check that `images` is a sequence of images, not a single one. Raises: InvalidRequest."""
    if is_one_image(images):
        raise InvalidRequest("one image was given where a sequence of images is expected")
    return images


def as_top_k(top_k: int | None) -> int:
    """The message's field; 0 lets the server choose. Raises: InvalidRequest."""
    if top_k is None:
        return 0
    return _positive("top_k", top_k, 2**31 - 1)


def as_version(version: int | str | None) -> tuple[int, str]:
    """The messages' fields, number and label; 0 and "" for none. Raises: InvalidRequest."""
    if isinstance(version, str):
        return 0, as_name("version", version)
    return 0 if version is None else _positive("version", version, 2**63 - 1), ""


def as_name(field: str, name: str) -> str:
    """The message's field, a name. Raises: InvalidRequest."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{field} {name!r} is not UTF-8") from None
    return name


def checked(result: Result | ClientError) -> Result:
    """The result. Raises: the error that stands in its place."""
    if isinstance(result, ClientError):
        raise result
    return result


def _positive(name: str, value: int, most: int) -> int:
    if not 1 <= value <= most:
        raise InvalidRequest(f"{name} is {value}; it must be 1 to {most}")
    return value
