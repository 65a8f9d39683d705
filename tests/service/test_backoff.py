"""When a crashed process is started again."""

from __future__ import annotations

from service.backoff import LONGEST_SECONDS, MOST_CRASHES, STABLE_SECONDS, Backoff


def test_at_once_then_later_and_later_and_in_the_end_no_more() -> None:
    backoff = Backoff()
    waits = [backoff.after(0.1) for _ in range(MOST_CRASHES)]
    assert waits[:5] == [0.0, 0.5, 1.0, 2.0, 4.0]
    assert waits[-2:] == [LONGEST_SECONDS, None]


def test_who_has_lived_long_is_started_at_once() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.after(0.1)
    assert backoff.after(STABLE_SECONDS) == 0.0
    assert backoff.after(0.1) == 0.5
