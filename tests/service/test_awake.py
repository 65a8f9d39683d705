"""The clock of what may hang."""

from __future__ import annotations

import pytest

from service.awake import MOST_SECONDS, Awake
from tests.service.clock import Clock


def test_time_goes_on_while_the_process_runs() -> None:
    clock = Clock()
    awake = Awake(clock)
    begin = awake.seconds()
    for _ in range(100):
        clock.now += 1.0
        awake.beat()
    clock.now += 0.5
    assert awake.seconds() - begin == pytest.approx(100.5)


def test_time_stands_still_while_it_is_stopped() -> None:
    clock = Clock()
    awake = Awake(clock)
    begin = awake.seconds()
    clock.now += 3600.0
    assert awake.seconds() - begin <= MOST_SECONDS  # though nothing has beaten since
    awake.beat()
    assert awake.seconds() - begin <= MOST_SECONDS
    clock.now += 1.0
    assert awake.seconds() - begin == pytest.approx(MOST_SECONDS + 1.0)
