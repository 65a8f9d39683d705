"""The way of every request, whatever protocol it came by: admitted, decoded, batched, counted."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
)
from contextlib import contextmanager
from time import monotonic
from typing import TypeVar

import structlog

from service.deadlines import why_gone
from service.decoding import Decoder
from service.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelFailure,
    ModelNotFound,
    NotServing,
    OutOfMemory,
    QueueFull,
    QueueTooLong,
    RegionNotFound,
    RequestError,
    TooManyStreams,
)
from service.images import Images
from service.metrics import Metrics
from service.replies import Outcome, outcome, recall
from service.repository import Repository, Route
from service.served import ServedModel
from service.shadow import Shadows
from service.streaming import Claim, Streams, Window

Request = TypeVar("Request")
Answer = TypeVar("Answer")

MAX_NAME = 128
# A reply is put together on the event loop: a larger one would hold everybody else up.
MAX_SCORES = 16_384
# Of a model's queue: one stream alone must not fill it.
STREAM_SHARE = 0.25
# One that is refused at once, whose answer takes room all the same.
REFUSED_SHARE = STREAM_SHARE / 256

_REASONS = {
    InvalidRequest: "invalid",
    ModelNotFound: "not_found",
    RegionNotFound: "not_found",
    QueueFull: "queue_full",
    QueueTooLong: "queue_too_long",
    TooManyStreams: "too_many_streams",
    OutOfMemory: "out_of_memory",
    NotServing: "not_serving",
}

log = structlog.get_logger()


class Pipeline:
    """What all protocols share: the models, the decoder, the limits and the counts.

    Before `serve` and after `drain` there are no models, but NotServing.
    """

    def __init__(
        self,
        decoder: Decoder,
        metrics: Metrics,
        *,
        max_images: int,
        max_streams: int,
    ) -> None:
        self._decoder = decoder
        self._metrics = metrics
        self._max_images = max_images
        self._streams = Streams(max_streams, "streams", on_refusal=self._note_full)
        self._shadows = Shadows()
        self._repository: Repository | None = None
        self._closed = "the service is starting"

    @property
    def ready(self) -> bool:
        """Whether requests are answered."""
        return not self._closed

    @property
    def models(self) -> Repository:
        """What is served. Raises: NotServing."""
        if self._repository is None or self._closed:
            raise NotServing(self._closed)
        return self._repository

    def serve(self, repository: Repository) -> None:
        """Begin to answer."""
        self._repository = repository
        self._closed = ""

    def drain(self) -> None:
        """Refuse new requests; let those that wait run at once."""
        self._closed = "the service is stopping"
        for model in self._repository or ():
            model.flush()

    def request(self, model: str, request_id: str) -> Counted:
        """Count a request for a model while it is worked on, and how it fails."""
        return Counted(self, self._metrics, model, request_id)

    @contextmanager
    def question(self, model: str) -> Iterator[None]:
        """Count how a question about a model is refused."""
        try:
            yield
        except RequestError as error:
            self.note(error, model)
            raise

    def find(self, name: str, version: int, label: str) -> ServedModel:
        """The model that is asked about. Raises: InvalidRequest, ModelNotFound, NotServing."""
        if version and label:
            raise InvalidRequest(f"version_label: {label[:MAX_NAME]!r} beside version {version}")
        return self.models.get(name, version, label)

    def route(self, name: str, version: int, label: str, *, key: str) -> Route:
        """Who is to answer a request; the same `key` gets the same model.

        Raises: as `find`.
        """
        if version or label:
            return Route(self.find(name, version, label))
        return self.models.route(name, key=key[:MAX_NAME])

    def check(
        self, count: int, request_id: str, *, images: str = "images", id_field: str = "request_id"
    ) -> None:
        """Check what holds for every request; errors name these fields. Raises: InvalidRequest."""
        if not 1 <= count <= self._max_images:
            raise InvalidRequest(f"{images}: {count}, must be 1 to {self._max_images}")
        if len(request_id) > MAX_NAME:
            raise InvalidRequest(f"{id_field}: more than {MAX_NAME} characters")

    def admitted(
        self, model: ServedModel, count: int, size: int, *, deadline: float, level: int
    ) -> Admitted:
        """Hold room for `count` images in a request of `size` bytes, until it is answered.

        It is that of a level, as `model.level` gives it.

        Raises: DeadlineExceeded, InvalidRequest, QueueFull, QueueTooLong; all in `__enter__`.
        """
        return Admitted(model, count, size + count * model.spec.nbytes, deadline, level)

    async def classify(
        self, route: Route, images: Images, *, deadline: float, level: int
    ) -> Outcome:
        """Decode the images of an admitted request and run them.

        Where there is a shadow, it is shown them afterwards.

        Raises: InvalidRequest naming the image, DeadlineExceeded, ModelFailure, NotServing,
        OutOfMemory.
        """
        answers = route.model.answers
        if answers is None:
            return await self._run(route, images, deadline=deadline, level=level)
        filling = 0.0
        if images.steps:
            begin = monotonic()
            await self._fill(route.model, images, level)
            filling, images = monotonic() - begin, images._replace(steps=())
        runs: list[Outcome] = []

        async def compute(wanted: list[int]) -> list[bytes]:
            run = await self._run(route, images.only(wanted), deadline=deadline, level=level)
            runs.append(run)
            return [row.tobytes() for row in run.scores]

        recalled = await answers.get(images.contents(), compute, deadline=deadline)
        return recall(recalled, runs, filling)

    def stream(
        self,
        requests: AsyncIterator[Request],
        answer: Callable[[Request], Awaitable[Answer]],
        claim: Callable[[Request], Claim],
    ) -> AsyncGenerator[Answer, None]:
        """Answer each request of a stream in order, several at once.

        `claim` may raise what its `answer` will.

        Raises: TooManyStreams, before anything is read.
        """
        window = Window(answer, lambda one: self._share(one, claim), STREAM_SHARE)
        return self._streams.bounded(window.answers(requests))

    def _note_full(self) -> None:
        self._metrics.rejected["too_many_streams"] += 1

    def _share(self, request: Request, claim: Callable[[Request], Claim]) -> float:
        """What part of its model's queue a request will take."""
        try:
            asked = claim(request)
            model = self.find(asked.model, asked.version, asked.label)
        except RequestError:
            return REFUSED_SHARE
        images = max(1, asked.images)  # with none it is refused, and takes room until then
        size = asked.size + images * model.spec.nbytes
        return model.admission.share(images, size, level=model.level(asked.priority))

    async def _run(self, route: Route, images: Images, *, deadline: float, level: int) -> Outcome:
        """Compute the images, whether or not they were seen before."""
        model, shadow = route
        decode = 0.0
        if images.files or images.steps:
            start = monotonic()
            await self._fill(model, images, level)
            decode = monotonic() - start
        rows = images.filled()
        items = await model.classify(rows, deadline=deadline, level=level)
        found = outcome(items, decode)
        if shadow is not None:
            self._shadows.show(model, shadow, rows, found.scores)
        return found

    async def _fill(self, model: ServedModel, images: Images, level: int) -> None:
        line, count = model.manifest.name, images.size
        model.expected += count  # batches are to know that so many images are on their way
        try:
            if images.files:
                await self._decoder.decode(
                    images.files,
                    model.spec,
                    images.rows,
                    line=line,
                    level=level,
                    field=images.field,
                )
            # One after the other: where this is cancelled or a step fails, the others never run.
            for step in images.steps:
                await self._decoder.run(step, line=line, level=level)
        finally:
            model.expected -= count

    def note(self, error: RequestError, model: str, request_id: str = "") -> None:
        """Count a refusal; log what the operator has to know and the caller must not."""
        if reason := _REASONS.get(type(error)):
            self._metrics.rejected[reason] += 1
        elif isinstance(error, ModelFailure):
            self._metrics.failed["model"] += 1
            log.error(
                "model_failed",
                model=model or "(default)",
                detail=error.detail,
                request_id=request_id,
            )


# Each request passes these. Generators of contextlib would do the same in fewer lines, for a tenth
# of the event loop's time.


class Counted:
    """Counts a request while a `with` block works on it, and how it fails."""

    __slots__ = ("_metrics", "_model", "_pipeline", "_request_id")

    def __init__(self, pipeline: Pipeline, metrics: Metrics, model: str, request_id: str) -> None:
        self._pipeline, self._metrics = pipeline, metrics
        self._model, self._request_id = model, request_id

    def __enter__(self) -> None:
        self._metrics.in_flight += 1

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._metrics.in_flight -= 1
        if isinstance(error, RequestError):
            self._pipeline.note(error, self._model, self._request_id)
        elif isinstance(error, Exception):
            self._metrics.failed["internal"] += 1


class Admitted:
    """Room for a request in the queue of its model, which stays open meanwhile."""

    __slots__ = ("_count", "_deadline", "_level", "_model", "_room", "_size")

    def __init__(
        self, model: ServedModel, count: int, size: int, deadline: float, level: int
    ) -> None:
        self._model, self._count, self._size = model, count, size
        self._deadline, self._level = deadline, level

    def __enter__(self) -> None:
        model = self._model
        if monotonic() >= self._deadline:
            model.metrics.dropped["deadline"] += 1
            raise DeadlineExceeded("the deadline has passed")
        self._room = model.admission.admit(
            self._count, self._size, deadline=self._deadline, level=self._level
        )
        model.leases.__enter__()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        model, metrics = self._model, self._model.metrics
        model.admission.leave(self._room)
        model.leases.__exit__()
        if error is None:
            return
        metrics.failed += 1
        if isinstance(error, ModelFailure | OutOfMemory):
            metrics.errors += 1
        elif isinstance(error, DeadlineExceeded):
            metrics.dropped["deadline"] += 1
        elif isinstance(error, asyncio.CancelledError):
            metrics.dropped[why_gone(self._deadline)] += 1
