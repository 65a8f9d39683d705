"""Room for requests of which not all has come yet."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from service.errors import InvalidRequest, QueueFull

RETRY_SECONDS = 1.0
# For which a request keeps its room where others need it.
PATIENCE_SECONDS = 10.0


class Intake:
    """Bytes that callers have sent of requests which are not whole, `most` of all together.

    What a model has room for is known only once a request is read. Without this, those that are
    still being read would take any amount of memory. One that is whole when it is first looked at
    takes no room here. Used from one thread.
    """

    def __init__(self, most: int, *, clock: Callable[[], float] = monotonic) -> None:
        self._most = most
        self._clock = clock
        self._held = 0
        self._holdings: dict[Holding, float] = {}
        """Those that hold anything, and since when; the oldest first."""
        self.on_refusal: Callable[[], object] = lambda: None
        """Called for each request that is refused or dropped."""

    def change(self, holding: Holding, size: int) -> None:
        """Have a request hold `size` bytes.

        Raises: QueueFull where there is no room for more, InvalidRequest where there never is; it
        goes on holding what it held.
        """
        if size > self._most:
            raise InvalidRequest(
                f"the request has {size:,} bytes or more; {self._most:,} may be in the service at "
                "once: send fewer images at once"
            )
        short = self._held + size - holding.size - self._most
        if size > holding.size and short > 0:
            self._make_room(short, but=holding)
        self._held += size - holding.size
        holding.size = size
        if size:
            self._holdings.setdefault(holding, self._clock())
        else:
            self._holdings.pop(holding, None)

    def _make_room(self, size: int, *, but: Holding) -> None:
        """Drop those that take longest to come, where that is too long, for `size` bytes."""
        limit = self._clock() - PATIENCE_SECONDS
        slow = [one for one, since in self._holdings.items() if since <= limit and one is not but]
        if sum(one.size for one in slow) < size:
            self.on_refusal()
            raise QueueFull(
                f"{self._most:,} bytes of requests are being received, the most there may be",
                retry_after=RETRY_SECONDS,
            )
        for one in slow:
            if size > 0:
                size -= one.size
                self.on_refusal()
                self.change(one, 0)
                one.on_drop()


class Holding:
    """What one request holds of an intake; `on_drop` is called where it has to go."""

    __slots__ = ("_intake", "on_drop", "size")

    def __init__(self, intake: Intake, on_drop: Callable[[], None]) -> None:
        self._intake = intake
        self.on_drop = on_drop
        self.size = 0

    def hold(self, size: int) -> None:
        """Hold so many bytes from now on. Raises: as `Intake.change`."""
        if size != self.size:
            self._intake.change(self, size)

    def close(self) -> None:
        """Hold nothing any more, nor whoever is told of a drop: that holds this."""
        self.hold(0)
        self.on_drop = _nothing


def _nothing() -> None:
    pass


def too_slow() -> QueueFull:
    """The end of a request that was dropped."""
    return QueueFull(
        "the request took too long to come, and others needed its room", retry_after=RETRY_SECONDS
    )
