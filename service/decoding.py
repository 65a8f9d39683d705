"""Encoded images to rows of a batch, in processes that do nothing else.

In threads, decoders and event loop would wait for each other: each needs the interpreter's lock
between two calls of a library. How much that is: docs/experiments.md.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import structlog
from numpy.typing import NDArray

from convoy.imaging import InputSpec, Limits
from service.awake import AWAKE, BEAT_SECONDS
from service.decode_channel import Channel, Job, Pace, Wanted
from service.errors import InvalidRequest, NotServing, StartupError
from service.lines import Lines
from service.metrics import Metrics
from service.shares import Shares
from service.worker import Worker

Encoded = tuple[int, bytes]

# Before another attempt at a process that did not start.
RETRY_SECONDS = 1.0
# Between two looks whether a model must still wait for another.
LOOK_SECONDS = 0.1
# Without any result: no image within the limits takes as long.
STUCK_SECONDS = 60.0

log = structlog.get_logger()


class Decoder:
    """Decodes in `processes` processes, once it is started; one that crashes is replaced.

    Made within a running event loop.
    """

    def __init__(
        self,
        limits: Limits,
        metrics: Metrics,
        shares: Shares,
        *,
        processes: int,
        stuck_seconds: float = STUCK_SECONDS,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._limits = limits
        self._processes = processes
        self._metrics = metrics
        self._shares = shares
        shares.on_change = self._go_on
        self._again: asyncio.TimerHandle | None = None
        self._stuck_seconds = stuck_seconds
        self._pace = Pace(shares)
        self._lines: Lines[Job] = Lines()
        self._suspects: deque[Job] = deque()
        self._started = self._closed = False
        # What fills rows from numbers is Python, of which one thread runs at a time.
        self._filler = Worker("fill")
        self._channels: list[Channel] = []
        metrics.decoder_memory = self.resident_bytes

    @property
    def in_hand(self) -> int:
        """Images that processes have got and not answered."""
        return sum(channel.in_hand for channel in self._channels)

    @property
    def pids(self) -> list[int]:
        """Those of the processes."""
        return [one.pid for one in self._channels if one.pid and not one.closed]

    def resident_bytes(self) -> int:
        """Memory that the processes hold."""
        return sum(channel.resident_bytes() for channel in tuple(self._channels))

    def start(self) -> None:
        """Start the processes. Raises: StartupError."""
        for _ in range(self._processes):
            self._channels.append(self._open())

    async def ready(self) -> None:
        """Wait until they all have started. Raises: StartupError."""
        ready = await asyncio.gather(*(channel.ready for channel in self._channels))
        if not all(ready) or any(channel.closed for channel in self._channels):
            raise StartupError("a process that decodes images did not start; see above for why")
        self._started = True
        self._watch()

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

        The processes divide their time between the lines that wait, except those that must let
        another go first, as `Shares` tells; in a line, level 1 goes first.
        Where this is cancelled or an image is bad, they get no other image of it.

        Raises: InvalidRequest naming the image, NotServing.
        """
        if self._closed:
            raise NotServing("the service is stopping")
        wanted = Wanted(self._loop.create_future(), len(images))
        for row, data in images:
            job = Job(wanted, data, spec, out[row], f"{field}[{row}]", line)
            self._lines.put(line, job, level)
        try:
            self._feed()
            await wanted.result
        except BaseException:
            # Behind a flood of a higher level they would keep their bytes for as long as it lasts.
            self._lines.discard(line, lambda job: job.wanted is wanted)
            raise

    async def run(self, function: Callable[[], None], *, line: str, level: int = 1) -> None:
        """Call a function in a thread, in its turn of the line."""
        call = self._filler.run(function, line=line, level=level)
        try:
            await call
        finally:
            self._filler.withdraw([call], line=line)

    def close(self) -> None:
        """Let the processes and the thread end."""
        self._closed = True
        self._filler.close()
        jobs = [*self._lines.close(), *self._suspects]
        for channel in self._channels:
            jobs += channel.close()
        self._channels.clear()
        for job in jobs:
            job.fail(NotServing("the service is stopping"))

    def _open(self) -> Channel:
        return Channel(self._limits, self._pace, self._on_results, self._on_end)

    def _feed(self) -> None:
        allowed = self._pace.allowed()
        while (self._lines.waiting or self._suspects) and (channel := self._freest(allowed)):
            job = self._next(channel)
            if job is None:
                break
            if job.wanted.result.done():
                continue
            try:
                channel.add(job)
            except Exception as error:  # it is not to become the failure of whoever feeds
                job.fail(error)
        for channel in self._channels:
            channel.flush()

    def _go_on(self) -> None:
        """Feed soon, where anything waits."""
        if self._lines.waiting:
            self._loop.call_soon(self._feed)

    def _freest(self, allowed: int) -> Channel | None:
        """The one that is to get the next job; none has room where it is None."""
        free = [channel for channel in self._channels if channel.has_room(allowed)]
        if not free:
            return None
        least = min(free, key=lambda channel: channel.in_hand)
        if not self._suspects or not least.in_hand:
            return least
        # It is left to get idle, for them.
        free.remove(least)
        return min(free, key=lambda channel: channel.in_hand, default=None)

    def _next(self, channel: Channel) -> Job | None:
        """What the channel is to get, if there is anything."""
        if self._suspects and not channel.in_hand:
            return self._suspects.popleft()
        taken = self._lines.take(wait=False, must_wait=self._shares.must_wait)
        if taken:
            return taken[1]
        if self._lines.waiting:  # for another model: not for ever, if that hangs
            if self._again:
                self._again.cancel()
            self._again = self._loop.call_later(LOOK_SECONDS, self._go_on)
        return None

    def _on_results(self, times: list[tuple[str, float]]) -> None:
        for line, seconds in times:
            self._lines.charge(line, seconds)
            self._shares.charge(line, seconds)
            self._metrics.decoder_seconds += seconds
        self._feed()

    def _on_end(self, channel: Channel, jobs: list[Job]) -> None:
        """Replace a process that has crashed.

        Which of its images did that is found out by giving each to a process that has no other. One
        that has not started had none.
        """
        if not self._started:
            return
        if not channel.ready.result():
            log.error("decoder_not_started", retry_in_seconds=RETRY_SECONDS)
            self._loop.call_later(RETRY_SECONDS, self._replace, channel)
            return
        log.error("decoder_crashed", images=len(jobs))
        self._metrics.decoder_crashes += 1
        if len(jobs) == 1 and jobs[0].suspect:
            (job,) = jobs
            job.fail(InvalidRequest(f"{job.name}: the decoder crashes on it"))
        else:
            for job in jobs:
                job.suspect = True
            self._suspects += jobs
        self._replace(channel)

    def _watch(self) -> None:
        AWAKE.beat()
        if not self._closed:
            for channel in self._channels:
                channel.kill_if_stuck(self._stuck_seconds)
            wait = min(self._stuck_seconds / 4, BEAT_SECONDS)
            self._loop.call_later(wait, self._watch)

    def _replace(self, channel: Channel) -> None:
        if self._closed:
            return
        try:
            self._channels[self._channels.index(channel)] = self._open()
        except StartupError as error:
            log.error("decoder_not_started", reason=str(error), retry_in_seconds=RETRY_SECONDS)
            self._loop.call_later(RETRY_SECONDS, self._replace, channel)
        self._feed()
