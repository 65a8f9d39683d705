"""Room for requests of which not all has come yet."""

from __future__ import annotations

from collections.abc import Callable

from service.errors import QueueFull

RETRY_SECONDS = 1.0


class Intake:
    """Bytes that callers have sent of requests which are not whole, `most` of all together.

    What a model has room for is known only once a request is read. Without this, those that are
    still being read would take any amount of memory. One that is whole when it is first looked at
    takes no room here.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self.on_refusal: Callable[[], object] = lambda: None
        """Called before one is refused."""

    def change(self, before: int, now: int) -> None:
        """Note that a request of which `before` bytes were held has `now`.

        Raises: QueueFull where there is no room for more; `before` bytes go on being held.
        """
        more = now - before
        if more > 0 and self._held + more > self._most:
            self.on_refusal()
            raise QueueFull(
                f"{self._most:,} bytes of requests are being received, the most there may be",
                retry_after=RETRY_SECONDS,
            )
        self._held += more
