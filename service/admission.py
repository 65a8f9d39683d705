"""Who may enter the queue of a model: nothing waits without a bound, or in vain."""

from __future__ import annotations

from collections.abc import Callable
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
class Room:
    """What one request holds of the queue."""

    admission: Admission
    images: int
    size: int

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        self.admission.leave(self)


class Admission:
    """Room for images and bytes, and the pace at which the images in it are answered.

    The pace is measured, and believed, only while at least `saturated` images are there: then it is
    what the whole path (decoding, waiting, computing) can do with what it is being sent.
    """

    def __init__(
        self,
        *,
        max_images: int,
        max_bytes: int,
        saturated: int,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._max_images = max_images
        self._max_bytes = max_bytes
        self._saturated = saturated
        self._clock = clock
        self._images = 0
        self._bytes = 0
        self._seconds_per_image = 0.0
        self._window_start = 0.0
        self._window_images = 0

    def admit(self, images: int, size: int, *, deadline: float) -> Room:
        """Take room for `images` images and `size` bytes; a `with` block gives it back at its end.

        Raises: InvalidRequest where the room is too small even when empty; QueueFull and
        QueueTooLong at once: better now than after a wait in vain.
        """
        self._check(images, size, deadline)
        before, self._images = self._images, self._images + images
        self._bytes += size
        if before < self._saturated <= self._images:
            self._seconds_per_image = 0.0
            self._window_start, self._window_images = self._clock(), 0
        return Room(self, images, size)

    def leave(self, room: Room) -> None:
        """Give the room back."""
        self._images -= room.images
        self._bytes -= room.size
        if self._images >= self._saturated:
            self._measure(room.images)

    def _check(self, images: int, size: int, deadline: float) -> None:
        if images > self._max_images or size > self._max_bytes:
            raise InvalidRequest(
                f"images: {images} of {size:,} bytes in all, decoded ones included; "
                f"the queue holds {self._max_images} and {self._max_bytes:,}: send fewer at once"
            )
        saturated = self._images >= self._saturated
        wait = self._images * self._seconds_per_image if saturated else 0.0
        retry_after = max(wait / 2, LEAST_RETRY_SECONDS)
        if self._images + images > self._max_images or self._bytes + size > self._max_bytes:
            raise QueueFull("the queue is full", retry_after=retry_after)
        batch = self._saturated * self._seconds_per_image
        if wait > 0.0 and self._clock() + MARGIN * (wait + batch) > deadline:
            raise QueueTooLong(
                f"the queue is {wait:.3f} s long, more than is left of the deadline",
                retry_after=retry_after,
            )

    def _measure(self, images: int) -> None:
        self._window_images += images
        now = self._clock()
        if now - self._window_start >= WINDOW_SECONDS:
            self._seconds_per_image = (now - self._window_start) / self._window_images
            self._window_start, self._window_images = now, 0
