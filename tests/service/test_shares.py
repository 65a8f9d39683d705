"""Shares: a model that has had more of the processors than another lets that one compute."""

from __future__ import annotations

from contextlib import ExitStack

from service.shares import DIVIDED_SECONDS, LARGEST_AGE, MEMORY_SECONDS, Shares
from tests.service.clock import Clock


def test_who_has_had_more_waits_while_the_other_computes() -> None:
    shares = Shares(2)
    shares.charge("flooded", 1.0)
    shares.charge("other", 0.5)
    with shares.computing("other", 2):
        assert shares.must_wait("flooded")
        assert not shares.must_wait("other")
    assert not shares.must_wait("flooded")
    with shares.computing("flooded", 2):
        assert not shares.must_wait("other")
        assert not shares.must_wait("flooded")


def test_it_is_told_when_the_wait_is_over() -> None:
    shares, seen = Shares(1), []
    shares.charge("flooded", 1.0)
    shares.on_change = lambda: seen.append(shares.must_wait("flooded"))
    with ExitStack() as stack:
        for model in ("a", "b"):
            stack.enter_context(shares.computing(model, 1))
    assert seen == [True, False]


def test_free_processors_are_used() -> None:
    shares = Shares(4)
    shares.charge("flooded", 1.0)
    with shares.computing("other", 2, session=1):
        assert not shares.must_wait("flooded")
        with shares.computing("other", 2, session=1):  # its next batch, in the same threads
            assert not shares.must_wait("flooded")
        with shares.computing("other", 2, session=2):
            assert shares.must_wait("flooded")
        assert not shares.must_wait("flooded")


def test_what_was_used_long_ago_does_not_count() -> None:
    clock = Clock()
    shares = Shares(1, clock=clock)
    shares.charge("flooded", 1.0)
    clock.now += 3 * MEMORY_SECONDS
    shares.charge("other", 0.1)
    with shares.computing("other", 1):
        assert not shares.must_wait("flooded")


def test_no_wait_is_for_ever() -> None:
    clock = Clock()
    shares = Shares(1, clock=clock)
    shares.charge("flooded", 1.0)
    with shares.computing("other", 1):
        assert shares.must_wait("flooded")
        clock.now += 5 * MEMORY_SECONDS
        assert not shares.must_wait("flooded")


def test_they_are_the_same_after_a_long_time() -> None:
    clock = Clock()
    shares = Shares(1, clock=clock)
    both = [("flooded", 0.2), ("other", 0.1)]
    for order in (both, both[::-1], both):
        clock.now += 1.5 * LARGEST_AGE * MEMORY_SECONDS
        for model, seconds in order:
            shares.charge(model, seconds)
        with shares.computing("other", 1):
            assert shares.must_wait("flooded")


def test_it_knows_whether_several_models_are_used() -> None:
    clock = Clock()
    shares = Shares(1, clock=clock)
    shares.charge("a", 1.0)
    shares.charge("a", 1.0)
    assert not shares.divided
    shares.charge("b", 1.0)
    assert shares.divided
    clock.now += 2 * DIVIDED_SECONDS
    shares.charge("b", 1.0)
    assert not shares.divided
    clock.now += 2 * DIVIDED_SECONDS
    shares.charge("a", 1.0)
    assert not shares.divided
