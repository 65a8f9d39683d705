"""Who may enter the queue, by count, by bytes and by deadline."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import Any

import pytest

from service.admission import Admission
from service.errors import InvalidRequest, QueueFull, QueueTooLong
from tests.service.clock import Clock


def make(*images: int, saturated: int = 2, clock: Callable[[], float] = monotonic) -> Admission:
    """Room for so many images of each level, by default of one."""
    return Admission(max_images=images or (4,), max_bytes=100, saturated=saturated, clock=clock)


@contextmanager
def held(room: Admission, images: int, size: int, **options: Any) -> Iterator[None]:
    """Hold room while a block runs."""
    taken = room.admit(images, size, **options)
    try:
        yield
    finally:
        room.leave(taken)


def test_room_is_taken_and_given_back() -> None:
    room = make()
    with held(room, 3, 10, deadline=math.inf):
        with pytest.raises(QueueFull), held(room, 2, 10, deadline=math.inf):
            pass
        with held(room, 1, 10, deadline=math.inf):
            pass
    with held(room, 4, 100, deadline=math.inf):
        pass


def test_bytes_count_as_images_do() -> None:
    room = make()
    with (
        held(room, 1, 60, deadline=math.inf),
        pytest.raises(QueueFull),
        held(room, 1, 60, deadline=math.inf),
    ):
        pass


def test_a_wait_longer_than_the_deadline_is_refused_at_once() -> None:
    clock = Clock()
    room = make(6, clock=clock)
    with ExitStack() as stack:
        # A batch is two images: the queue is saturated, and with one more batch for the request
        # itself, five seconds long, 6.25 with the margin.
        for _ in range(3):
            stack.enter_context(held(room, 1, 0, deadline=math.inf))
        with held(room, 2, 0, deadline=math.inf):
            clock.now += 2.0  # one image in one second
        with pytest.raises(QueueTooLong, match=r"3.000 s long") as refusal:
            stack.enter_context(held(room, 1, 0, deadline=clock.now + 6.2))
        assert refusal.value.retry_after == pytest.approx(1.5)
        stack.enter_context(held(room, 1, 0, deadline=clock.now + 6.3))


def test_one_image_of_a_batch_that_comes_late_is_no_pace() -> None:
    clock = Clock()
    room = make(10, saturated=3, clock=clock)
    with ExitStack() as stack:
        stack.enter_context(held(room, 3, 0, deadline=math.inf))
        batch = [room.admit(1, 0, deadline=math.inf) for _ in range(3)]
        clock.now += 3.0
        room.leave(batch[0])
        stack.enter_context(held(room, 1, 0, deadline=clock.now + 0.1))
        for one in batch[1:]:
            room.leave(one)
        with pytest.raises(QueueTooLong, match=r"4.000 s long"):
            room.admit(1, 0, deadline=clock.now + 5.0)


def test_idle_time_is_no_pace() -> None:
    clock = Clock()
    room = make(6, clock=clock)
    clock.now += 3600.0
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(held(room, 1, 0, deadline=math.inf))
        with held(room, 2, 0, deadline=math.inf):
            clock.now += 2.0
        stack.enter_context(held(room, 1, 0, deadline=clock.now + 6.3))


def test_a_pace_is_forgotten_with_the_load_that_it_was_of() -> None:
    clock = Clock()
    room = make(6, clock=clock)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(held(room, 1, 0, deadline=math.inf))
        with held(room, 2, 0, deadline=math.inf):
            clock.now += 60.0  # large photos
    with ExitStack() as stack:
        for _ in range(4):  # small ones
            stack.enter_context(held(room, 1, 0, deadline=clock.now + 0.1))


def test_what_can_never_fit_is_the_callers_mistake() -> None:
    room = make()
    for images, size in ((5, 0), (1, 101)):
        with pytest.raises(InvalidRequest), held(room, images, size, deadline=math.inf):
            pass


def test_a_level_that_is_full_refuses_nobody_of_another() -> None:
    room = make(2, 3)
    with held(room, 3, 100, deadline=math.inf, level=2):
        with (
            pytest.raises(QueueFull, match="the queue of priority 2 is full"),
            held(room, 1, 0, deadline=math.inf, level=2),
        ):
            pass
        with (
            held(room, 2, 100, deadline=math.inf, level=1),
            pytest.raises(QueueFull, match="the queue of priority 1 is full"),
            held(room, 1, 0, deadline=math.inf, level=1),
        ):
            pass


def test_a_request_that_its_level_never_has_room_for() -> None:
    room = make(2, 3)
    with pytest.raises(InvalidRequest, match="the queue of priority 1 holds 2 and 100"):
        room.admit(3, 0, deadline=math.inf, level=1)
    with held(room, 3, 0, deadline=math.inf, level=2):
        pass


def test_only_what_goes_first_counts_as_a_wait() -> None:
    clock = Clock()
    room = make(100, 100, saturated=1, clock=clock)
    with ExitStack() as stack:
        for level, images in ((1, 2), (2, 10)):
            stack.enter_context(held(room, images, 0, deadline=math.inf, level=level))
        with held(room, 1, 0, deadline=math.inf):
            clock.now += 1.0  # one image in one second
        # Two images ahead and its own batch of one, with the margin; for the lower level twelve.
        stack.enter_context(held(room, 1, 0, deadline=clock.now + 3.8, level=1))
        with pytest.raises(QueueTooLong, match=r"priority 2 is 13\.000 s long"):
            room.admit(1, 0, deadline=clock.now + 3.8, level=2)
