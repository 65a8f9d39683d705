"""How a command is told to stop: by Ctrl-C, or by what ends processes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def termination_interrupts() -> Iterator[None]:
    """Take SIGTERM, by which schedulers and torchrun end a process, as Ctrl-C."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def interrupt_held_back() -> Iterator[None]:
    """Let a first interrupt wait until the end of the block; a second one comes at once.

    For what calls Python from C++, as PyTorch's exporter does: there an exception may be lost, or
    end the process (SIGSEGV).
    """
    taken = [
        number
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is signal.default_int_handler
    ]
    if threading.current_thread() is not threading.main_thread():  # others get no interrupts
        taken = []
    held = False

    def let_through() -> None:
        for number in taken:
            signal.signal(number, signal.default_int_handler)

    def hold(number: int, frame: object) -> None:
        nonlocal held
        held = True
        let_through()

    for number in taken:
        signal.signal(number, hold)
    try:
        yield
    finally:
        let_through()
    if held:
        raise KeyboardInterrupt


def leave_interrupts(worker: int) -> None:
    """In a worker: leave Ctrl-C, which reaches all, to the process that trains; end by SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
