"""How the models of a service divide its processors; used from the event loop."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from time import monotonic

# What was used so many seconds ago counts 1/e of what is used now.
MEMORY_SECONDS = 1.0
# How long it counts that a model was used, for those who ask whether it is the only one.
DIVIDED_SECONDS = 5.0
# Differences below are no reason to wait. It ends every wait, too: both sides are forgotten alike.
MARGIN_SECONDS = 0.01
# Weights are computed anew before they get too large for a float.
LARGEST_AGE = 100.0


class Shares:
    """Processor time that the models have had of late, and which must let another go first.

    The kernel divides the processors among threads, and a model that is flooded has more of these
    busy: decoders besides its network. So while a network computes on all `processors`, no image is
    decoded for models that have had more of late than its own. A model that asks for less than its
    part so has the processors nearly for itself, and no model waits for one that has had more.
    """

    def __init__(self, processors: int, *, clock: Callable[[], float] = monotonic) -> None:
        self.on_change: Callable[[], None] = lambda: None
        """Called when a model that had to wait may have to no longer."""
        self._processors = processors
        self._clock = clock
        self._used: defaultdict[str, float] = defaultdict(float)
        """Seconds by model, each by the weight that it had when it was spent."""
        self._origin = clock()
        """When the weight was 1."""
        self._computing: Counter[tuple[str, Hashable, int]] = Counter()
        """What computes, or is to do so next: model, session and threads."""
        self._last = ""
        """The model that was charged last, at `_last_at`."""
        self._last_at = self._changed = -math.inf
        """`_changed` is when one was charged soon after another one."""

    def charge(self, model: str, seconds: float) -> None:
        """Note processor time that was spent for a model."""
        now = self._clock()
        weight = self._weight(now)  # first, since it may change what is there
        self._used[model] += seconds * weight
        if model != self._last and now - self._last_at < DIVIDED_SECONDS:
            self._changed = now
        self._last, self._last_at = model, now

    @contextmanager
    def computing(self, model: str, threads: int, *, session: Hashable = None) -> Iterator[None]:
        """A network computes in so many threads until the end of the block.

        A `session` has these only once, however many batches were handed to it.
        """
        one = (model, session, threads)
        self._computing[one] += 1
        try:
            yield
        finally:
            self._computing[one] -= 1
            if not self._computing[one]:
                del self._computing[one]
            self.on_change()

    def must_wait(self, model: str) -> bool:
        """Whether no image of a model is to be decoded now. It ends in time without `on_change`."""
        if all(other == model for other, _, _ in self._computing):
            return False
        margin = MARGIN_SECONDS * self._weight(self._clock())
        allowed = self._used[model] - margin
        ahead = (threads for other, _, threads in self._computing if self._used[other] < allowed)
        return sum(ahead) >= self._processors

    @property
    def divided(self) -> bool:
        """Whether more than one model has used the processors of late."""
        return self._clock() - self._changed < DIVIDED_SECONDS

    def _weight(self, now: float) -> float:
        """What a second counts now. It grows, so that what was spent before need not shrink.

        Forward decay: Cormode et al., ICDE 2009.
        """
        age = (now - self._origin) / MEMORY_SECONDS
        if age > LARGEST_AGE:
            self._origin = now
            for model in self._used:
                self._used[model] *= math.exp(-age)
            return 1.0
        return math.exp(age)
