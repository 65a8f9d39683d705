"""Whether the event loop that answers calls still turns."""

from __future__ import annotations

from time import monotonic

# A loop that has not turned for this long is stuck: callers time out and a restart is due.
STALL_SECONDS = 10.0


class Pulse:
    """Beaten by the event loop; whoever reads it learns whether the loop still turns."""

    def __init__(self) -> None:
        self._last = monotonic()

    def beat(self) -> None:
        """Note that the loop has turned."""
        self._last = monotonic()

    @property
    def alive(self) -> bool:
        """Whether the last beat is recent."""
        return monotonic() - self._last < STALL_SECONDS
