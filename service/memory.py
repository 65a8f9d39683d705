"""Has the C library give freed memory back to the system; glibc only, others are left alone."""

from __future__ import annotations

import contextlib
import ctypes

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

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


def trim() -> None:
    """Return what is free now, as after the end of a model: each leaves holes in some arenas.

    It takes milliseconds, without the interpreter's lock.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _mallopt(parameter: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(parameter, value)
