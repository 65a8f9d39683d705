"""The steps that plans are made of; a client carries each out and sends back its outcome."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from convoy.client.errors import InvalidRequest
from convoy.client.inputs import Shape, is_ready, read_image
from convoy.v1 import image_classifier_pb2 as pb

T = TypeVar("T")

END = object()
"""The outcome of `Read` after the last input."""


@dataclass(frozen=True, slots=True)
class Read:
    """Take the next of the caller's inputs. Outcome: the input, or END."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Read or encode one input. Outcome: a pb.Image, or an InvalidRequest."""

    value: object
    shape: Shape | None

    @property
    def blocks(self) -> bool:
        """Whether it takes a disk or an encoder."""
        return not is_ready(self.value, self.shape)

    def run(self) -> pb.Image | InvalidRequest:
        """Do it."""
        try:
            return read_image(self.value, self.shape)
        except InvalidRequest as error:
            return error


@dataclass(frozen=True, slots=True)
class Start:
    """Send a call. Outcome: its handle, which `Wait` takes."""

    method: str
    request: Any
    timeout: float
    """Seconds."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for a call. Outcome: its response, or a Failure."""

    handle: Any


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait before trying again."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Emit(Generic[T]):
    """Hand one value to the caller."""

    value: T


Step: TypeAlias = Read | Prepare | Start | Wait | Sleep
Steps: TypeAlias = Generator[Step, Any, T]
Plan: TypeAlias = Generator[Step | Emit[T], Any, None]
