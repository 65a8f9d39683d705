"""Encoded images to rows of a batch, in a small pool of threads."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from convoy.errors import ImageError
from convoy.imaging import InputSpec, Limits, decode
from service.errors import InvalidRequest


class Decoder:
    """Decodes with `threads` threads; Pillow and libjpeg give up the GIL while they work."""

    def __init__(self, limits: Limits, *, threads: int) -> None:
        self._limits = limits
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    async def decode(
        self, images: Sequence[tuple[int, bytes]], spec: InputSpec, out: NDArray[np.uint8]
    ) -> None:
        """Decode pairs of row and bytes into `out` [N, H, W, C].

        Cancelling this call saves what no thread has begun.

        Raises: InvalidRequest naming the image.
        """
        loop = asyncio.get_running_loop()
        shares = [
            images[start :: self._threads] for start in range(min(self._threads, len(images)))
        ]
        futures = [
            loop.run_in_executor(self._pool, _decode_into, share, spec, self._limits, out)
            for share in shares
        ]
        try:
            await asyncio.gather(*futures)
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _decode_into(
    images: Sequence[tuple[int, bytes]], spec: InputSpec, limits: Limits, out: NDArray[np.uint8]
) -> None:
    for row, data in images:
        try:
            out[row] = decode(data, spec, limits)
        except ImageError as error:
            raise InvalidRequest(f"images[{row}]: {error}") from None
