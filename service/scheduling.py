"""How the kernel shares the processors among the threads of the service; on Linux only."""

from __future__ import annotations

import os
from contextlib import suppress


def let_threads_finish() -> None:
    """Let no thread that wakes take the processor from one that computes.

    Each request wakes half a dozen threads for some microseconds each. The kernel would run them at
    once, and what they interrupt finds its caches cold. Holds for all threads and processes that
    are started from now on; whoever chose another policy keeps it. See SCHED_BATCH in sched(7).
    """
    with suppress(AttributeError, OSError):
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
