"""Deadlines, as points of the monotonic clock in seconds; none is infinity."""

from __future__ import annotations

from time import monotonic
from typing import Literal

# A caller counts its deadline from when it sent, the service from when it received: the caller's
# cancellation arrives a little before the deadline that the service knows.
TOLERANCE_SECONDS = 0.02


def why_gone(deadline: float) -> Literal["deadline", "cancelled"]:
    """Why a caller left: its deadline has passed, or it did not want to wait for it."""
    return "deadline" if monotonic() >= deadline - TOLERANCE_SECONDS else "cancelled"
