"""Which images share a call, and when it may go: no server, and a clock set by hand."""

from __future__ import annotations

import asyncio

import pytest

import convoy
from convoy.client.chunks import CallLimits, Slot
from convoy.client.joining import ENOUGH_BYTES, MAX_WAIT, MOST_CALLS, Joiner, Joint
from convoy.v1 import image_classifier_pb2 as pb

LOOP = asyncio.new_event_loop()


class World:
    """A joiner of three images and 100 bytes a call, two calls in flight."""

    def __init__(self) -> None:
        self.now = 100.0
        batching = convoy.Batching(images_per_call=3, bytes_per_call=100, calls_in_flight=2)
        self.joiner = Joiner(CallLimits(batching), lambda: self.now)

    def add(self, name: str, *, top_k: int = 0, size: int = 1, deadline: float = 0.0) -> Joint:
        answer: asyncio.Future[None] = asyncio.Future(loop=LOOP)
        return self.joiner.add(slot(name, size), answer, top_k=top_k, deadline=deadline)

    def next(self, in_flight: int) -> str | None:
        """The names of the images in the call that may go."""
        joint = self.joiner.next(in_flight)
        return joint and "".join(slot.source for slot in joint.slots)


def slot(name: str, size: int) -> Slot:
    return Slot(0, name, pb.Image(encoded=bytes(size)))


@pytest.fixture
def world() -> World:
    return World()


def test_lone_image_goes_at_once(world):
    world.add("a")
    assert world.next(in_flight=0) == "a"
    assert world.next(in_flight=0) is None


def test_images_gather_while_enough_calls_are_in_flight(world):
    world.add("a")
    assert world.next(in_flight=2) is None
    world.add("b")
    assert world.next(in_flight=1) == "ab"


def test_full_calls_do_not_wait(world):
    for name in "abcd":
        world.add(name)
    assert world.next(in_flight=2) == "abc"
    assert world.next(in_flight=2) is None


def test_wait_is_bounded(world):
    world.add("a")
    assert world.joiner.wait(in_flight=2) == pytest.approx(MAX_WAIT)
    world.now += 1.1 * MAX_WAIT
    assert world.joiner.wait(in_flight=2) == 0.0
    assert world.next(in_flight=2) == "a"
    assert world.joiner.wait(in_flight=2) is None


def test_calls_in_flight_are_bounded_however_long_the_wait(world):
    for name in "abc":
        world.add(name)
    world.now += 60.0
    assert world.next(in_flight=MOST_CALLS) is None
    assert world.joiner.wait(in_flight=MOST_CALLS) is None
    assert world.next(in_flight=MOST_CALLS - 1) == "abc"


def test_bytes_of_a_call_are_bounded(world):
    for name in "abc":
        world.add(name, size=60)
    assert world.next(in_flight=0) == "ab"
    assert world.next(in_flight=0) == "c"


def test_large_images_are_not_gathered(world):
    joiner = Joiner(CallLimits(convoy.Batching()), lambda: world.now)
    for name in "abcd":
        joiner.add(slot(name, ENOUGH_BYTES // 2), None, top_k=0, deadline=0.0)
    first = joiner.next(in_flight=9)
    assert first is not None
    assert [one.source for one in first.slots] == ["a", "b"]


def test_different_top_k_do_not_mix(world):
    for name, top_k in zip("abcdef", [1, 2, 1, 2, 1, 2], strict=True):
        world.add(name, top_k=top_k)
    assert world.next(in_flight=9) == "ace"
    assert world.next(in_flight=9) == "bdf"


def test_scores_of_a_call_are_bounded(world):
    for name in "abc":
        world.add(name, top_k=8000)
    assert world.next(in_flight=0) == "ab"


def test_call_has_the_time_of_the_caller_that_has_most(world):
    joint = world.add("a", deadline=130.0)
    world.add("b", deadline=110.0)
    assert joint.deadline == 130.0


def test_departed_callers_are_left_behind(world):
    joint = world.add("a")
    world.add("b")
    joint.answers[0].cancel()
    joint.leave_the_departed()
    assert [slot.source for slot in joint.slots] == ["b"]
    assert len(joint.answers) == 1
