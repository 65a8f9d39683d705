"""Memory that is shared with another process, given out in blocks."""

from __future__ import annotations

import mmap
import os
from bisect import insort
from contextlib import suppress

ALIGNMENT = 64
# What lies beyond is given back to the system as soon as it is free.
KEPT_BYTES = 4 * 2**20


class Arena:
    """A mapped file in memory (memfd_create(2)) of `size` bytes, of which only what is used exists.

    Blocks are given out from the lowest address on (first fit). Raises: OSError.
    """

    def __init__(self, size: int) -> None:
        self.fd = os.memfd_create("convoy-arena", os.MFD_CLOEXEC)
        """The file, for the other process; to be closed once it has it."""
        try:
            os.ftruncate(self.fd, size)
            self._map = mmap.mmap(self.fd, size)
        except BaseException:
            os.close(self.fd)
            raise
        self._taken: list[tuple[int, int]] = []
        """Begin and end of each block, in their order."""
        self._highest = 0
        """The end of what may exist."""

    @property
    def view(self) -> memoryview:
        """All of it."""
        return memoryview(self._map)

    def take(self, size: int) -> int:
        """The address of a block of this size. Raises: MemoryError."""
        begin = 0
        for start, end in self._taken:
            if begin + size <= start:
                break
            begin = -(-end // ALIGNMENT) * ALIGNMENT
        if begin + size > len(self._map):
            raise MemoryError(f"no room for {size:,} bytes beside {len(self._taken)} blocks")
        insort(self._taken, (begin, begin + size))
        self._highest = max(self._highest, begin + size)
        return begin

    def give_back(self, begin: int) -> None:
        """Free the block at this address."""
        del self._taken[next(k for k, block in enumerate(self._taken) if block[0] == begin)]
        used = self._taken[-1][1] if self._taken else 0
        if used <= KEPT_BYTES < self._highest:
            with suppress(OSError):  # not every sandbox can
                self._map.madvise(mmap.MADV_REMOVE, KEPT_BYTES, self._highest - KEPT_BYTES)
            self._highest = KEPT_BYTES
