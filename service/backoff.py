"""When to start a process again that has crashed."""

from __future__ import annotations

FIRST_SECONDS = 0.5
LONGEST_SECONDS = 30.0
# Who has served for so long had another reason than the last time.
STABLE_SECONDS = 60.0
MOST_CRASHES = 10


class Backoff:
    """At once after the first crash, then later and later, and in the end no more."""

    def __init__(self) -> None:
        self.crashes = 0
        """In a row, none of which served for `STABLE_SECONDS`."""

    def after(self, served: float) -> float | None:
        """Seconds to wait after a process that served for so many; None to give up."""
        self.crashes = 1 if served >= STABLE_SECONDS else self.crashes + 1
        if self.crashes >= MOST_CRASHES:
            return None
        if self.crashes == 1:
            return 0.0
        return min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** (self.crashes - 2))
