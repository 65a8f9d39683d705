"""Sends load to a server and records what came back.

Requests are serialised before the clock starts, and only what is measured is read from replies:
what the client itself costs would otherwise be taken for the server's.
"""

from __future__ import annotations

import asyncio
import random
import time
from array import array
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count, cycle, islice
from typing import Any, TypeAlias

import grpc
import grpc.aio

from convoy.client.channel import channel_options
from convoy.v1 import image_classifier_pb2 as pb

STAGES = ("decode", "queue", "compute", "answer")
NOT_SENT = "NOT_SENT"
"""Counted instead of a status code where too many requests were waiting to send one more."""

MAX_OUTSTANDING = 10_000
_PAUSE_AFTER_ERROR = 0.01
_CLASSIFY = "/convoy.v1.ImageClassifier/Classify"
_CLASSIFY_STREAM = "/convoy.v1.ImageClassifier/ClassifyStream"

Send: TypeAlias = Callable[[bytes], Awaitable[pb.ClassifyResponse | str]]
"""Sends a serialised request; gives the response, or the name of a status code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What to send, how fast and for how long."""

    target: str
    rate: float | None
    """Requests a second, arriving at random (Poisson); None: closed loop."""
    concurrency: int
    """Callers of the closed loop; streams, with `streaming`."""
    duration: float
    """Seconds in which requests are sent."""
    requests: int
    """Requests at most."""
    timeout: float
    """Seconds for one request."""
    streaming: bool = False
    seed: int = 0


@dataclass(slots=True)
class Samples:
    """What was measured, one entry per answered request; times in seconds."""

    latencies: array[float] = field(default_factory=lambda: array("d"))
    """From the moment the request was due to its reply."""
    lateness: array[float] = field(default_factory=lambda: array("d"))
    """From the moment a request was due to its sending: the client's own share."""
    stages: dict[str, array[int]] = field(
        default_factory=lambda: {stage: array("L") for stage in STAGES}
    )
    """As the server reports them, in microseconds."""
    errors: Counter[str] = field(default_factory=Counter)
    """By status code."""
    images: int = 0
    elapsed: float = 0.0
    """From the first request to the last reply."""

    async def measure(self, send: Send, payload: bytes, due: float) -> bool:
        """Send one request and record what became of it. Returns: whether it was answered."""
        self.lateness.append(time.perf_counter() - due)
        reply = await send(payload)
        if isinstance(reply, str):
            self.errors[reply] += 1
            return False
        self.latencies.append(time.perf_counter() - due)
        self.images += len(reply.predictions)
        for stage in STAGES:
            self.stages[stage].append(getattr(reply.timings, f"{stage}_us"))
        return True


async def run_load(load: Load, payloads: Sequence[bytes]) -> Samples:
    """Send `payloads` in turn, over and over, as `load` says."""
    samples = Samples()
    async with _senders(load) as senders:
        # Connections and caches are ready before the clock starts.
        await asyncio.gather(*(send(payloads[0]) for send in senders))
        start = time.perf_counter()
        supply = islice(cycle(payloads), load.requests)
        if load.rate is None:
            end = start + load.duration
            await asyncio.gather(*(_caller(send, supply, samples, end) for send in senders))
        else:
            await _arrivals(load, load.rate, senders, supply, samples, start)
        samples.elapsed = time.perf_counter() - start
    return samples


async def _caller(send: Send, supply: Iterator[bytes], samples: Samples, end: float) -> None:
    """One caller of the closed loop."""
    while (now := time.perf_counter()) < end:
        payload = next(supply, None)
        if payload is None:
            return
        if not await samples.measure(send, payload, now):
            # A server that refuses everything would otherwise be asked without end.
            await asyncio.sleep(_PAUSE_AFTER_ERROR)


async def _arrivals(
    load: Load,
    rate: float,
    senders: Sequence[Send],
    supply: Iterator[bytes],
    samples: Samples,
    start: float,
) -> None:
    """The open loop: send each request when it is due, whatever became of those before it."""
    gaps = random.Random(load.seed)
    waiting: set[asyncio.Task[bool]] = set()
    due = start
    for number, payload in zip(count(), supply):
        due += gaps.expovariate(rate)
        if due - start > load.duration:
            break
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        if len(waiting) >= MAX_OUTSTANDING:
            samples.errors[NOT_SENT] += 1
            continue
        send = senders[number % len(senders)]
        task = asyncio.create_task(samples.measure(send, payload, due))
        waiting.add(task)
        task.add_done_callback(waiting.discard)
    await asyncio.gather(*waiting)


@asynccontextmanager
async def _senders(load: Load) -> AsyncIterator[list[Send]]:
    async with grpc.aio.insecure_channel(load.target, channel_options(load.target)) as channel:
        if not load.streaming:
            yield [_unary(channel, load.timeout)] * load.concurrency
            return
        streams = [_Stream(channel, load.timeout) for _ in range(load.concurrency)]
        try:
            yield [stream.send for stream in streams]
        finally:
            await asyncio.gather(*(stream.close() for stream in streams))


def _unary(channel: grpc.aio.Channel, timeout: float) -> Send:
    method: Any = channel.unary_unary(
        _CLASSIFY, response_deserializer=pb.ClassifyResponse.FromString
    )

    async def send(payload: bytes) -> pb.ClassifyResponse | str:
        try:
            response: pb.ClassifyResponse = await method(payload, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return response

    return send


class _Stream:
    """One ClassifyStream: replies come in the order of the requests."""

    def __init__(self, channel: grpc.aio.Channel, timeout: float) -> None:
        method: Any = channel.stream_stream(
            _CLASSIFY_STREAM, response_deserializer=pb.ClassifyStreamResponse.FromString
        )
        self._call = method()
        self._timeout = timeout
        self._waiting: deque[asyncio.Future[pb.ClassifyResponse | str]] = deque()
        self._writing = asyncio.Lock()
        self._ended = ""
        self._reader = asyncio.create_task(self._read())

    async def send(self, payload: bytes) -> pb.ClassifyResponse | str:
        """Send one request and wait for its reply."""
        reply: asyncio.Future[pb.ClassifyResponse | str] = asyncio.Future()
        try:
            async with asyncio.timeout(self._timeout):
                async with self._writing:
                    if self._ended:
                        return self._ended
                    self._waiting.append(reply)
                    await self._call.write(payload)
                return await reply
        except TimeoutError:
            return "DEADLINE_EXCEEDED"
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return self._ended or "UNAVAILABLE"

    async def close(self) -> None:
        """End the stream and what waits for it."""
        self._call.cancel()
        await self._reader

    async def _read(self) -> None:
        try:
            async for message in self._call:
                self._resolve(_read_reply(message))
            self._ended = "UNAVAILABLE"
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
            code = error.code().name if isinstance(error, grpc.aio.AioRpcError) else "CANCELLED"
            self._ended = code
        while self._waiting:
            self._resolve(self._ended)

    def _resolve(self, reply: pb.ClassifyResponse | str) -> None:
        waiting = self._waiting.popleft()
        if not waiting.done():  # its timeout may have come first
            waiting.set_result(reply)


def _read_reply(message: pb.ClassifyStreamResponse) -> pb.ClassifyResponse | str:
    if message.HasField("response"):
        return message.response
    for code in grpc.StatusCode:
        if code.value[0] == message.error.code:
            return code.name
    return "UNKNOWN"
