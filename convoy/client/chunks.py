"""Images on their way to the server, and how many of them share a call."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from convoy.client.errors import ClientError, InvalidRequest
from convoy.v1 import image_classifier_pb2 as pb

# What a server answers at most in one call: images times classes.
MAX_SCORES = 16_384
_CALL_FIELD = re.compile(r"(model|version|version_label|routing_key|top_k|priority)[:.] ")
_IMAGE_NAME = re.compile(r"images\[(\d+)\][.:] ?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """How images are packed into calls."""

    images_per_call: int = 32
    """At most; a server takes 256 unless it is configured otherwise."""
    bytes_per_call: int = 4 * 2**20
    """No image is added to a call that has reached this size."""
    calls_in_flight: int = 4
    """Calls sent before the first of them is answered."""
    coalesce: bool = True
    """Asyncio client: images that tasks classify one at a time, at the same time, share calls.
    Nothing waits while fewer than `calls_in_flight` are unanswered, and 5 ms at most otherwise."""

    def __post_init__(self) -> None:
        if min(self.images_per_call, self.bytes_per_call, self.calls_in_flight) < 1:
            raise ValueError(f"{self}: every number must be at least 1")


@dataclass(slots=True, eq=False)
class Slot:
    """One image of a caller, at its place in the caller's sequence."""

    index: int
    source: str
    image: pb.Image | InvalidRequest

    def name(self, error: ClientError) -> ClientError:
        """The error, as one about this image."""
        detail = _IMAGE_NAME.sub("", error.detail, count=1)
        return type(error)(detail, source=self.source, index=self.index)


@dataclass(slots=True, eq=False)
class Chunk:
    """Images that share a call, and the call."""

    slots: list[Slot] = field(default_factory=list)
    size: int = 0
    """Bytes of the images."""
    call: Any = None

    def add(self, slot: Slot) -> None:
        """Add one image."""
        self.slots.append(slot)
        if isinstance(slot.image, pb.Image):
            self.size += slot.image.ByteSize()

    def sendable(self) -> list[Slot]:
        """The images that could be read."""
        return [slot for slot in self.slots if isinstance(slot.image, pb.Image)]


class CallLimits:
    """What one call may hold: as configured, and less where the server turns out to take less."""

    def __init__(self, batching: Batching) -> None:
        self.calls_in_flight = batching.calls_in_flight
        self._images = batching.images_per_call
        self._bytes = batching.bytes_per_call

    def reached(self, chunk: Chunk, top_k: int) -> bool:
        """Whether no other image may join."""
        count = len(chunk.slots)
        return (
            count >= self._images or chunk.size >= self._bytes or (count + 1) * top_k > MAX_SCORES
        )

    def refused(self, images: int) -> None:
        """Note that a call of so many images was refused for its size."""
        self._images = max(1, min(self._images, images // 2))


def refused_image(error: ClientError, count: int) -> int | None:
    """Which of the `count` images of a call the server's message names; None: none of them."""
    match = _IMAGE_NAME.match(error.detail)
    return int(match[1]) if match and int(match[1]) < count else None


def is_about_call(error: ClientError) -> bool:
    """Whether a call is wrong whatever its images are: its server names another field of it."""
    return isinstance(error, InvalidRequest) and _CALL_FIELD.match(error.detail) is not None


def is_same(outcome: object, error: ClientError) -> bool:
    """Whether an image alone failed in the way its call did."""
    return type(outcome) is type(error) and outcome.detail == error.detail
