"""Who may enter the queue of a model: nothing waits without a bound, or in vain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from service.errors import Overloaded

# Long enough to average over many batches, short enough to follow the load.
WINDOW_SECONDS = 0.25
LEAST_RETRY_SECONDS = 0.01


class Admission:
    """Room for images and bytes, and the pace at which the images in it are answered.

    The pace is measured only while at least `saturated` images are there: it is what the whole path
    (decoding, waiting, computing) can do, not what the callers happen to ask of it.
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
        self._images = 0
        self._bytes = 0
        self._seconds_per_image = 0.0
        self._clock = clock
        self._window_start = clock()
        self._window_images = 0

    @contextmanager
    def admit(self, images: int, size: int, *, deadline: float) -> Iterator[None]:
        """Hold room for `images` images and `size` bytes until the end of the block.

        Raises: Overloaded at once, where there is no room or where the wait for those ahead would
        outlast the deadline: better now than after a wait in vain.
        """
        wait = self._images * self._seconds_per_image
        if self._images + images > self._max_images or self._bytes + size > self._max_bytes:
            raise Overloaded("the queue is full", retry_after=max(wait / 2, LEAST_RETRY_SECONDS))
        if self._clock() + wait > deadline:
            raise Overloaded(
                f"the queue is {wait:.3f} s long, more than is left of the deadline",
                retry_after=max(wait / 2, LEAST_RETRY_SECONDS),
            )
        self._images += images
        self._bytes += size
        try:
            yield
        finally:
            self._images -= images
            self._bytes -= size
            self._measure(images)

    def _measure(self, images: int) -> None:
        now = self._clock()
        if self._images < self._saturated:
            self._window_start, self._window_images = now, 0
            return
        self._window_images += images
        elapsed = now - self._window_start
        if elapsed >= WINDOW_SECONDS:
            self._seconds_per_image = elapsed / self._window_images
            self._window_start, self._window_images = now, 0
