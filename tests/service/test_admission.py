"""Who may enter the queue, by count, by bytes and by deadline."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from time import monotonic

import pytest

from service.admission import Admission
from service.errors import Overloaded


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make(*, saturated: int = 2, clock: Callable[[], float] = monotonic) -> Admission:
    return Admission(max_images=4, max_bytes=100, saturated=saturated, clock=clock)


def test_room_is_taken_and_given_back() -> None:
    room = make()
    with room.admit(3, 10, deadline=math.inf):
        with pytest.raises(Overloaded), room.admit(2, 10, deadline=math.inf):
            pass
        with room.admit(1, 10, deadline=math.inf):
            pass
    with room.admit(4, 100, deadline=math.inf):
        pass


def test_bytes_count_as_images_do() -> None:
    room = make()
    with (
        room.admit(1, 60, deadline=math.inf),
        pytest.raises(Overloaded, match="full"),
        room.admit(1, 60, deadline=math.inf),
    ):
        pass


def test_room_comes_back_when_the_request_fails() -> None:
    room = make()
    with pytest.raises(ValueError, match="broken"), room.admit(4, 100, deadline=math.inf):
        raise ValueError("broken")
    with room.admit(4, 100, deadline=math.inf):
        pass


def test_a_wait_longer_than_the_deadline_is_refused_at_once() -> None:
    clock = Clock()
    room = make(clock=clock)
    with ExitStack() as stack:
        for _ in range(3):  # more than a batch: the queue is saturated
            stack.enter_context(room.admit(1, 0, deadline=math.inf))
        with room.admit(1, 0, deadline=math.inf):
            clock.now += 1.0  # one image in one second
        with pytest.raises(Overloaded, match=r"3.000 s long") as refusal:
            stack.enter_context(room.admit(1, 0, deadline=clock.now + 2.9))
        assert refusal.value.retry_after == pytest.approx(1.5)
        stack.enter_context(room.admit(1, 0, deadline=clock.now + 3.1))


def test_a_quiet_service_never_refuses_for_its_pace() -> None:
    room = make(saturated=3)
    for _ in range(5):
        with room.admit(1, 0, deadline=monotonic() + 0.001):
            pass
