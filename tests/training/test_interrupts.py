"""Interrupts where an exception would crash the process."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from training.interrupts import interrupt_held_back

INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    before = [signal.signal(number, signal.default_int_handler) for number in INTERRUPTS]
    yield
    for number, handler in zip(INTERRUPTS, before, strict=True):
        signal.signal(number, handler)


def raised(*numbers: signal.Signals) -> list[signal.Signals]:
    """Raise these within a block that holds interrupts back; returns those that let it go on."""
    passed = []
    with suppress(KeyboardInterrupt), interrupt_held_back():
        for number in numbers:
            signal.raise_signal(number)
            passed.append(number)
    return passed


@pytest.mark.parametrize("number", INTERRUPTS)
def test_a_first_interrupt_waits_for_the_end(number: signal.Signals) -> None:
    assert raised(number) == [number]
    with pytest.raises(KeyboardInterrupt), interrupt_held_back():
        signal.raise_signal(number)
    assert all(signal.getsignal(one) is signal.default_int_handler for one in INTERRUPTS)


def test_a_second_interrupt_comes_at_once() -> None:
    assert raised(signal.SIGINT, signal.SIGTERM, signal.SIGINT) == [signal.SIGINT]


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupt_held_back():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
