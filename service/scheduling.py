"""How the kernel shares the processors among the threads of the service; on Linux only."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress

# For which a thread waits before it asks for the interpreter's lock; Python's own are 5 ms.
SWITCH_SECONDS = 50e-6

# Steps of priority by which threads give way. What answers requests has a call done in microseconds
# and is wanted for all of them; what decodes and computes takes milliseconds.
COMPUTES = 5
# Those of the least priority of all would get next to nothing of busy processors, also while they
# hold the interpreter's lock, for which all others would wait.
BACKGROUND = 15


def give_way(steps: int) -> None:
    """Have this thread, and those that it starts, leave the processors to others (Linux)."""
    if sys.platform != "linux":  # where a priority is that of a process
        return
    with suppress(OSError):
        thread = threading.get_native_id()
        priority = os.getpriority(os.PRIO_PROCESS, thread) + steps
        os.setpriority(os.PRIO_PROCESS, thread, priority)


def let_threads_finish() -> None:
    """Let no thread that wakes take the processor from one that computes.

    Each request wakes half a dozen threads for some microseconds each. The kernel would run them at
    once, and what they interrupt finds its caches cold. Holds for all threads and processes that
    are started from now on; whoever chose another policy keeps it. See SCHED_BATCH in sched(7).
    """
    with suppress(AttributeError, OSError):
        _switch(0, os.SCHED_OTHER, os.SCHED_BATCH)


def take_turns_quickly() -> None:
    """Let no thread hold the interpreter's lock for long where another waits for it.

    The event loop has something to do for milliseconds at a time under load, in which a network's
    thread could neither give its results away nor begin the next batch. Not with grpcio, whose own
    thread asks for the lock at every call.
    """
    sys.setswitchinterval(SWITCH_SECONDS)


class Interruptions:
    """Whether threads that wake may take the processor from those that compute, after all.

    That is for several models at a time: the requests of the one would wait in each of their
    threads until the network of the other has used up its time. It does nothing where this process
    has not let its threads finish.
    """

    def __init__(self) -> None:
        self._allowed = self._possible = False
        with suppress(AttributeError, OSError):
            self._possible = os.sched_getscheduler(0) == os.SCHED_BATCH

    def allow(self, wanted: bool, processes: Iterable[int]) -> None:
        """Allow it in this process and in others, or forbid it again.

        To be repeated while it is allowed, for threads and processes that are new.
        """
        if not self._possible or not (wanted or self._allowed):
            return
        self._allowed = wanted
        policies = os.SCHED_BATCH, os.SCHED_OTHER
        old, new = policies if wanted else policies[::-1]
        for process in (os.getpid(), *processes):
            for thread in _threads(process):
                with suppress(OSError):  # it has ended
                    _switch(thread, old, new)


def _switch(thread: int, old: int, new: int) -> None:
    """Give a thread another policy, where it has the old one; 0 is the present thread."""
    if os.sched_getscheduler(thread) == old:
        os.sched_setscheduler(thread, new, os.sched_param(0))


def _threads(process: int) -> list[int]:
    try:
        return list(map(int, os.listdir(f"/proc/{process}/task")))
    except OSError:  # it has ended
        return []
