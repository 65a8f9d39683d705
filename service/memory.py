"""Has the C library give freed memory back to the system; glibc only, others are left alone."""

from __future__ import annotations

import contextlib
import ctypes

M_MMAP_THRESHOLD = -3  # from glibc's malloc.h


def return_freed_memory() -> None:
    """Have large freed blocks returned at once, from now on.

    By itself glibc raises the size from which it does so up to 32 MiB, and the pixels of a few
    large photos then stay in the process for good, scattered over the decoding threads' arenas.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, 2**20)


def trim() -> None:
    """Return what is free now, as after the end of a model: each leaves holes in some arenas.

    It takes milliseconds, without the interpreter's lock.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
