"""Encoded images to rows of a batch, in a small pool of threads."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
from numpy.typing import NDArray

from convoy.errors import ImageError
from convoy.imaging import InputSpec, Limits, decode
from service.errors import InvalidRequest

# Images that a thread takes at once: enough to spare hand-overs, few enough that other requests
# get their turn beside a large one.
SHARE = 4


class Decoder:
    """Decodes with `threads` threads; the libraries give up the GIL while they work."""

    def __init__(self, limits: Limits, *, threads: int) -> None:
        self._limits = limits
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    async def decode(
        self,
        images: Sequence[tuple[int, bytes]],
        spec: InputSpec,
        out: NDArray[np.uint8],
        *,
        field: str = "images",
    ) -> None:
        """Decode pairs of row and bytes into `out` [N, H, W, C]; `field` is what errors name.

        Where this is cancelled or an image is bad, the threads begin no other image of it.

        Raises: InvalidRequest naming the image.
        """
        loop = asyncio.get_running_loop()
        wanted = Event()
        wanted.set()
        futures = [
            loop.run_in_executor(
                self._pool,
                _decode_into,
                images[at : at + SHARE],
                spec,
                self._limits,
                out,
                wanted,
                field,
            )
            for at in range(0, len(images), SHARE)
        ]
        try:
            await asyncio.gather(*futures)
        finally:
            wanted.clear()
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _decode_into(
    images: Sequence[tuple[int, bytes]],
    spec: InputSpec,
    limits: Limits,
    out: NDArray[np.uint8],
    wanted: Event,
    field: str,
) -> None:
    for row, data in images:
        if not wanted.is_set():
            return
        try:
            decode(data, spec, limits, out=out[row])
        except ImageError as error:
            raise InvalidRequest(f"{field}[{row}]: {error}") from None
