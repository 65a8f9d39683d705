"""When memory is freed: by the C library (glibc only, others are left alone) and by Python."""

from __future__ import annotations

import contextlib
import ctypes
import gc

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

# New objects, less those freed, after which Python looks for cycles among them; its own is 700.
NEW_OBJECTS = 10_000

# What a photo of 12 megapixels needs; a larger one is rare enough to pay for its pages.
REUSED_BYTES = 16 * 2**20


def return_freed_memory() -> None:
    """Have large freed blocks returned at once, from now on.

    By itself glibc raises the size from which it does so up to 32 MiB, and the pixels of a few
    large photos then stay in the process for good, scattered over the arenas of its threads.
    """
    _mallopt(M_MMAP_THRESHOLD, 2**20)


def reuse_freed_memory() -> None:
    """Keep some freed memory, for a process of one thread that needs as much again and again.

    Decoding a photo of 500x375 took a quarter longer where its pages were returned each time.
    """
    _mallopt(M_MMAP_THRESHOLD, REUSED_BYTES)
    _mallopt(M_TRIM_THRESHOLD, 2 * REUSED_BYTES)


def seek_cycles_seldom() -> None:
    """Look less often for objects that only hold each other, from now on.

    A call leaves none behind, failed or not, so a look finds nothing; it costs a tenth of
    the event loop's time where many calls are under way.
    """
    gc.set_threshold(NEW_OBJECTS)


def trim() -> None:
    """Return what is free now, as after the end of a model: each leaves holes in some arenas.

    It takes milliseconds, without the interpreter's lock.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _mallopt(parameter: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(parameter, value)
