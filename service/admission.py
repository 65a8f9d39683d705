"""Who may enter the queue of a model: nothing waits without a bound, or in vain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from service.errors import InvalidRequest, QueueFull, QueueTooLong

# Long enough to average over many batches, short enough to follow the load.
WINDOW_SECONDS = 0.25
LEAST_RETRY_SECONDS = 0.01
# The pace varies from batch to batch. Without a margin the queue would settle where every answer
# comes at its deadline, and half of them just after it: a third of the work done in vain.
MARGIN = 1.25


@dataclass(slots=True)
class Level:
    """What requests of one priority hold, and may hold."""

    name: str
    max_images: int
    max_bytes: int
    images: int = 0
    size: int = 0


@dataclass(slots=True)
class Room:
    """What one request holds of the queue."""

    level: Level
    images: int
    size: int


class Admission:
    """Room for images and bytes, and the pace at which the images in it are answered.

    Each level has room of its own, which no other takes: in all there may be the sum of
    `max_images`, and `max_bytes` for each. Level 1 goes first; a request waits for those of its own
    level and of higher ones.

    The pace is measured, and believed, only while at least `saturated` images are there: then it is
    what the whole path (decoding, waiting, computing) can do with what it is being sent.
    """

    def __init__(
        self,
        *,
        max_images: Sequence[int],
        max_bytes: int,
        saturated: int,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        several = len(max_images) > 1
        self._levels = [
            Level(f"the queue of priority {level}" if several else "the queue", most, max_bytes)
            for level, most in enumerate(max_images, 1)
        ]
        self._saturated = saturated
        self._clock = clock
        self._images = 0
        self._seconds_per_image = 0.0
        self._window_start = 0.0
        self._window_images = 0

    def admit(self, images: int, size: int, *, deadline: float, level: int = 1) -> Room:
        """Take room for `images` images and `size` bytes, until `leave`.

        Raises: InvalidRequest where the room is too small even when empty; QueueFull and
        QueueTooLong at once: better now than after a wait in vain.
        """
        own = self._levels[level - 1]
        self._check(own, images, size, deadline)
        own.images += images
        own.size += size
        before, self._images = self._images, self._images + images
        if before < self._saturated <= self._images:
            self._seconds_per_image = 0.0
            self._window_start, self._window_images = self._clock(), 0
        return Room(own, images, size)

    def share(self, images: int, size: int, *, level: int = 1) -> float:
        """What part of all the room of its level a request takes."""
        own = self._levels[level - 1]
        return max(images / own.max_images, size / own.max_bytes)

    def leave(self, room: Room) -> None:
        """Give the room back."""
        room.level.images -= room.images
        room.level.size -= room.size
        self._images -= room.images
        if self._images >= self._saturated:
            self._measure(room.images)

    def _check(self, own: Level, images: int, size: int, deadline: float) -> None:
        if images > own.max_images or size > own.max_bytes:
            raise InvalidRequest(
                f"images: {images} of {size:,} bytes in all, decoded ones included; "
                f"{own.name} holds {own.max_images} and {own.max_bytes:,}: send fewer at once"
            )
        wait = self._wait(own) if self._images >= self._saturated else 0.0
        retry_after = max(wait / 2, LEAST_RETRY_SECONDS)
        if own.images + images > own.max_images or own.size + size > own.max_bytes:
            raise QueueFull(f"{own.name} is full", retry_after=retry_after)
        batch = self._saturated * self._seconds_per_image
        if wait > 0.0 and self._clock() + MARGIN * (wait + batch) > deadline:
            raise QueueTooLong(
                f"{own.name} is {wait:.3f} s long, more than is left of the deadline",
                retry_after=retry_after,
            )

    def _wait(self, own: Level) -> float:
        """Seconds until what goes before a new request of this level is answered."""
        ahead = 0
        for level in self._levels:
            ahead += level.images
            if level is own:
                break
        return ahead * self._seconds_per_image

    def _measure(self, images: int) -> None:
        self._window_images += images
        now = self._clock()
        # Images are answered in batches: the first of one that comes late says nothing yet.
        if now - self._window_start >= WINDOW_SECONDS and self._window_images >= self._saturated:
            self._seconds_per_image = (now - self._window_start) / self._window_images
            self._window_start, self._window_images = now, 0
