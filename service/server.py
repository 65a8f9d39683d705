"""The life of the process: bind, load, serve, drain."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from time import monotonic
from typing import NoReturn, Protocol

import structlog

from convoy.imaging import Limits
from convoy.processors import processor_count
from service import cuda
from service.awake import AWAKE, BEAT_SECONDS
from service.cache import Store
from service.carrier import Carrier
from service.control import ModelControl
from service.decoding import Decoder
from service.devices import CPU, Device, NoCudaError, select_device
from service.errors import StartupError
from service.gate import Gate
from service.health import Health
from service.http.pulse import Pulse
from service.http.server import HttpServer
from service.keeper import Keeper
from service.memory import return_freed_memory, seek_cycles_seldom
from service.methods import ImageClassifier
from service.metrics import Metrics
from service.names import SERVICE
from service.nvml import GpuCollector, load_nvml
from service.oip.table import INFERENCE, OpenInference
from service.pipeline import Pipeline
from service.repository import Repository
from service.rest.application import Rest
from service.rpcs import Rpc, rpcs
from service.scheduling import Interruptions
from service.settings import Settings
from service.shares import Shares
from service.trials import judge
from service.watching import watch

log = structlog.get_logger()


class Front(Protocol):
    """What carries the calls."""

    port: int

    async def start(self, carrier: Carrier, rpcs: Iterable[Rpc]) -> None:
        """Begin to take calls."""

    async def close(self) -> None:
        """Stop at once."""


def open_grpcio(settings: Settings) -> Front:
    """The front grpcio. Raises: UsageError where the address cannot be had."""
    # Not above: with another front, the process does without all of gRPC.
    from service.fronts.grpcio import GrpcioFront

    return GrpcioFront(settings)


class Server:
    """Everything that one process holds; `listen`, `load` and `answer`, then `drain`.

    `open_front` makes what carries the calls. Raises: UsageError where a port cannot be had.
    """

    def __init__(
        self, settings: Settings, open_front: Callable[[Settings], Front] = open_grpcio
    ) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self._pulse = Pulse()
        # Both ports are bound before models load, so that a port in use is known at once.
        self._http = HttpServer(
            settings, self.metrics.registry, self._pulse, ready=lambda: self.metrics.ready
        )
        try:
            self._front = open_front(settings)
        except StartupError:
            self._http.close()
            raise
        limits = Limits(settings.max_image_bytes, settings.max_image_pixels)
        self._shares = Shares(processor_count())
        self._interruptions = Interruptions()
        processes = settings.decode_processes
        self._decoder = Decoder(limits, self.metrics, self._shares, processes=processes)
        most = settings.response_cache_bytes
        self._store = Store(most) if most else None
        if self._store is not None:
            self.metrics.cached = self._store.amount
        self._keeper: Keeper | None = None
        self._pipeline = _pipeline(settings, self._decoder, self.metrics)
        self._classifier = ImageClassifier(self._pipeline)
        self._control = ModelControl()
        self._inference = OpenInference(self._pipeline, self._control, settings)
        self._health = Health()
        gate = Gate(settings.control_token)
        self._carrier = Carrier(self.metrics, gate, max_images=settings.max_images_per_request)
        self._heart: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._load_seconds = 0.0
        self.hung = asyncio.Event()
        """A model computes no more; only another process can serve it."""

    @property
    def grpc_address(self) -> str:
        """Where gRPC really listens."""
        return f"{self.settings.grpc_address.rpartition(':')[0]}:{self._front.port}"

    @property
    def http_address(self) -> str:
        """Where HTTP really listens."""
        return f"{self.settings.http_address.rpartition(':')[0]}:{self._http.port}"

    async def listen(self) -> None:
        """Take calls, and say that none is answered yet."""
        self._heart = asyncio.create_task(self._beat())
        answered = rpcs(
            self._classifier,
            self._inference,
            self._control,
            self._health,
            max_watches=self.settings.max_connections,  # a client keeps one on each
        )
        rest = Rest(self._carrier, answered, max_bytes=self.settings.max_message_bytes)
        self._http.start(rest, self._carrier.note_full)
        await self._front.start(self._carrier, answered)

    async def load(self) -> None:
        """Load and prove every model. Raises: StartupError."""
        begin = monotonic()
        self._decoder.start()
        self._keeper = await self._load()
        await self._decoder.ready()
        self._load_seconds = monotonic() - begin

    def answer(self) -> None:
        """Begin to answer, and say so."""
        assert self._keeper is not None
        repository = self._keeper.repository
        self._pipeline.serve(repository)
        self._control.serve(self._keeper)
        self._announce(repository)
        self._keeper.on_change = partial(self._announce, repository)
        self.metrics.ready = True
        self._tasks.append(asyncio.create_task(judge(self._keeper, self.settings.compute_timeout)))
        if self.settings.watch:
            watching = watch(self.settings.models, self._keeper.refresh)
            self._tasks.append(asyncio.create_task(watching))
        log.info(
            "ready",
            grpc_address=self.grpc_address,
            http_address=self.http_address,
            models={name: entry.live for name, entry in repository.entries.items()},
            providers=sorted({one.provider for one in repository}),
            default_model=repository.default,
            seconds=round(self._load_seconds, 3),
        )

    async def drain(self) -> bool:
        """Not ready, accept nothing new, finish what was accepted; whether all of it finished."""
        self.metrics.ready = False
        timeout = self.settings.drain_timeout
        log.info("draining", in_flight=self.metrics.in_flight, timeout_seconds=timeout)
        for task in self._tasks:
            task.cancel()
        self._pipeline.drain()
        self._health.drain()
        begin = monotonic()
        complete = await self._carrier.drain(timeout)
        log.info("stopped", complete=complete, seconds=round(monotonic() - begin, 3))
        return complete

    async def close(self) -> None:
        """Free threads, sessions and ports."""
        await self._front.close()
        if self._heart is not None:
            self._heart.cancel()
        if self._keeper is not None:
            await self._keeper.close()
        self._inference.close()
        if self._store is not None:
            self._store.close()
        self._decoder.close()
        self._http.close()

    async def _beat(self) -> None:
        while True:
            self._pulse.beat()
            AWAKE.beat()
            await self._check()
            self._interruptions.allow(self._shares.divided, self._decoder.pids)
            await asyncio.sleep(BEAT_SECONDS)

    async def _check(self) -> None:
        """Give up models whose batch never ends: their callers may try another replica.

        Not so challengers and those that were, which `judge` takes out.
        """
        if self._keeper is None:
            return
        limit = self.settings.compute_timeout
        for model in self._keeper.models:
            if model.hangs(limit) and not model.tried:
                log.error("model_hangs", model=model.manifest.name, timeout_seconds=limit)
                self.hung.set()
                await model.close()

    async def _load(self) -> Keeper:
        device = select_device(self.settings.device)
        try:
            keeper = await self._start_keeper(device)
        except NoCudaError as error:
            if self.settings.device != "auto":
                raise
            device = Device(CPU, fallback=str(error))
            keeper = await self._start_keeper(device)
        if device.provider != CPU and (nvml := load_nvml()):
            bus_id = cuda.describe(device.index).bus_id
            self.metrics.registry.register(GpuCollector(nvml, bus_id))
        if device.fallback:
            self.metrics.device_fallback = True
            log.warning("running_on_cpu", reason=device.fallback)
        return keeper

    async def _start_keeper(self, device: Device) -> Keeper:
        keeper = Keeper(self.settings, device, self.metrics, self._shares, self._store)
        await keeper.start()
        models = keeper.repository
        self.metrics.live, self.metrics.unfit = models.live, models.unfit
        self.metrics.trials = models.trials
        return keeper

    def _announce(self, repository: Repository) -> None:
        self._health.announce([SERVICE, INFERENCE, *repository.entries])


def _pipeline(settings: Settings, decoder: Decoder, metrics: Metrics) -> Pipeline:
    return Pipeline(
        decoder,
        metrics,
        max_images=settings.max_images_per_request,
        max_streams=settings.max_streams,
    )


async def serve(
    server: Server, stop: asyncio.Event, on_loaded: Callable[[], Awaitable[None]] | None = None
) -> NoReturn:
    """Serve until told to stop, then end the process: with 0 where all was answered, else 1.

    A model that hangs ends it too, with 1. `on_loaded` is awaited before the first answer.

    Raises: StartupError.
    """
    seek_cycles_seldom()
    starting = asyncio.create_task(server.load())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        log.info("stopped", reason="signal before ready")
        os._exit(0)
    try:
        starting.result()
    except StartupError:
        await server.close()
        raise
    if on_loaded is not None:
        await on_loaded()
    server.answer()
    hanging = asyncio.create_task(server.hung.wait())
    await asyncio.wait((stopping, hanging), return_when=asyncio.FIRST_COMPLETED)
    complete = await server.drain() and not server.hung.is_set()
    # Not an orderly end: a closed connection tells callers UNAVAILABLE, where gRPC's own shutdown
    # tells those that keep calling CANCELLED; and no thread that still computes for somebody who
    # was cut off holds it up.
    os._exit(0 if complete else 1)


async def serve_until_signal(settings: Settings) -> NoReturn:
    """Serve over grpcio until SIGTERM or SIGINT; a second signal ends the process at once.

    Raises: StartupError.
    """
    return_freed_memory()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            log.warning("killed", reason="second signal")
            os._exit(1)
        stop.set()

    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, on_signal)
    server = Server(settings)
    await server.listen()
    await serve(server, stop)
