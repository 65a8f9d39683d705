"""Encoded images to rows of a batch, in a small pool of threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from threading import Event

import numpy as np
from numpy.typing import NDArray

from convoy.errors import ImageError
from convoy.imaging import InputSpec, Limits, decode
from service.errors import InvalidRequest
from service.worker import Worker

# Images that a thread takes at once, and their bytes: enough to spare hand-overs, few enough that
# others get their turn beside a large request, and that large photos go to several threads.
SHARE = 4
SHARE_BYTES = 2**18

Encoded = tuple[int, bytes]


class Decoder:
    """Decodes with `threads` threads; the libraries give up the GIL while they work.

    Made within a running event loop.
    """

    def __init__(self, limits: Limits, *, threads: int) -> None:
        self._limits = limits
        self._worker = Worker("decode", threads=threads)

    async def decode(
        self,
        images: Sequence[Encoded],
        spec: InputSpec,
        out: NDArray[np.uint8],
        *,
        line: str,
        level: int = 1,
        field: str = "images",
    ) -> None:
        """Decode pairs of row and bytes into `out` [N, H, W, C]; `field` is what errors name.

        The threads divide their time between the lines that wait; in a line, level 1 goes first.
        Where this is cancelled or an image is bad, they begin no other image of it.

        Raises: InvalidRequest naming the image.
        """
        wanted = Event()
        wanted.set()
        arguments = (spec, self._limits, out, wanted, field)
        results = [
            self._worker.run(_decode_into, share, *arguments, line=line, level=level)
            for share in _shares(images)
        ]
        try:
            await asyncio.gather(*results)
        except BaseException:
            wanted.clear()
            # Behind a flood of a higher level they would keep their bytes for as long as it lasts.
            self._worker.withdraw(results, line=line)
            raise

    async def run(self, function: Callable[[], None], *, line: str, level: int = 1) -> None:
        """Call a function in one of the threads, in its turn of the line."""
        call = self._worker.run(function, line=line, level=level)
        try:
            await call
        finally:
            self._worker.withdraw([call], line=line)

    def close(self) -> None:
        """Let the threads end."""
        self._worker.close()


def _shares(images: Sequence[Encoded]) -> Iterator[list[Encoded]]:
    share: list[Encoded] = []
    size = 0
    for image in images:
        if len(share) == SHARE or (share and size + len(image[1]) > SHARE_BYTES):
            yield share
            share, size = [], 0
        share.append(image)
        size += len(image[1])
    yield share


def _decode_into(
    images: Sequence[Encoded],
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
