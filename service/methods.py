"""The RPC methods of convoy.v1.ImageClassifier, as plain functions over its messages.

They know no transport: a front hands them a request and its deadline, cancels them when the caller
has left, and maps the errors they raise with service/status.py.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from time import monotonic

import numpy as np
import structlog

from convoy.imaging import InputSpec
from convoy.v1 import image_classifier_pb2 as pb
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
    RequestError,
    TooManyStreams,
)
from service.metrics import Metrics
from service.replies import answer, describe, record_times
from service.repository import Repository
from service.served import ServedModel
from service.session import Rows
from service.status import UNKNOWN_TEXT, pushback_ms, status_of
from service.streaming import Window

DEFAULT_TOP_K = 5
MAX_NAME = 128
# A reply is put together on the event loop: a larger one would hold everybody else up.
MAX_SCORES = 16_384
# Streams are for staying open: room comes back less often than in a queue.
STREAM_RETRY_SECONDS = 1.0

_REASONS = {
    InvalidRequest: "invalid",
    ModelNotFound: "not_found",
    QueueFull: "queue_full",
    QueueTooLong: "queue_too_long",
    TooManyStreams: "too_many_streams",
    OutOfMemory: "out_of_memory",
    NotServing: "not_serving",
}

log = structlog.get_logger()


class ImageClassifier:
    """Classify, ClassifyStream, ListModels and GetModel.

    Before `serve` and after `drain` every request gets NotServing.
    """

    def __init__(
        self,
        decoder: Decoder,
        metrics: Metrics,
        *,
        max_images: int,
        max_streams: int,
        stream_images: int,
    ) -> None:
        self._decoder = decoder
        self._metrics = metrics
        self._max_images = max_images
        self._max_streams = max_streams
        self._stream_images = stream_images
        self._streams = 0
        self._repository: Repository | None = None
        self._closed = "the service is starting"

    def serve(self, repository: Repository) -> None:
        """Begin to answer."""
        self._repository = repository
        self._closed = ""

    def drain(self) -> None:
        """Refuse new requests; let those that wait run at once."""
        self._closed = "the service is stopping"
        for model in self._repository or ():
            model.flush()

    async def classify(
        self, request: pb.ClassifyRequest, *, deadline: float = math.inf
    ) -> pb.ClassifyResponse:
        """Answer one request; `deadline` is of the monotonic clock.

        Raises: RequestError.
        """
        self._metrics.in_flight += 1
        try:
            model = self._models.get(request.model, request.version)
            return await self._classify(model, request, deadline)
        except RequestError as error:
            self._note(error, request)
            raise
        except Exception:
            self._metrics.failed["internal"] += 1
            raise
        finally:
            self._metrics.in_flight -= 1

    async def classify_stream(
        self, requests: AsyncIterator[pb.ClassifyRequest], *, deadline: float = math.inf
    ) -> AsyncGenerator[pb.ClassifyStreamResponse, None]:
        """Answer each request of a stream in order; a failed one does not end the stream.

        Raises: TooManyStreams, before anything is read.
        """
        if self._streams >= self._max_streams:
            self._metrics.rejected["too_many_streams"] += 1
            raise TooManyStreams(
                f"{self._streams:,} streams are open, the most there may be",
                retry_after=STREAM_RETRY_SECONDS,
            )
        window = Window[pb.ClassifyRequest, pb.ClassifyStreamResponse](
            lambda request: self._outcome(request, deadline),
            # A request without images is refused, and its answer takes room all the same.
            lambda request: max(1, len(request.images)),
            self._stream_images,
        )
        self._streams += 1
        try:
            async with aclosing(window.answers(requests)) as answers:
                async for answer in answers:
                    yield answer
        finally:
            self._streams -= 1

    async def list_models(
        self, request: pb.ListModelsRequest, *, deadline: float = math.inf
    ) -> pb.ListModelsResponse:
        """Describe every model."""
        models = self._models
        return pb.ListModelsResponse(models=[describe(one, models.default) for one in models])

    async def get_model(
        self, request: pb.GetModelRequest, *, deadline: float = math.inf
    ) -> pb.Model:
        """Describe one model. Raises: ModelNotFound, InvalidRequest."""
        try:
            models = self._models
            return describe(models.get(request.model, request.version), models.default)
        except RequestError as error:
            self._note(error, request)
            raise

    @property
    def _models(self) -> Repository:
        if self._repository is None or self._closed:
            raise NotServing(self._closed)
        return self._repository

    async def _classify(
        self, model: ServedModel, request: pb.ClassifyRequest, deadline: float
    ) -> pb.ClassifyResponse:
        top_k = self._check(request, model)
        count = len(request.images)
        size = request.ByteSize() + count * model.spec.nbytes
        try:
            _require_time(deadline)
            with model.admission.admit(count, size, deadline=deadline):
                rows, decode_seconds = await self._rows(request.images, model.spec)
                items = await model.classify(rows, deadline=deadline)
                response = answer(request, model, items, top_k)
                record_times(response.timings, model, items, decode_seconds)
                return response
        except DeadlineExceeded:
            model.metrics.dropped["deadline"] += 1
            raise
        except asyncio.CancelledError:
            model.metrics.dropped[why_gone(deadline)] += 1
            raise

    def _check(self, request: pb.ClassifyRequest, model: ServedModel) -> int:
        """Check what needs no decoding; returns how many classes to answer with."""
        count, classes = len(request.images), len(model.labels)
        if not 1 <= count <= self._max_images:
            raise InvalidRequest(f"images: {count}, must be 1 to {self._max_images}")
        if not 0 <= request.top_k <= classes:
            raise InvalidRequest(
                f"top_k: {request.top_k}, must be 0 (the default) to {classes}, "
                f"the number of classes of model {model.manifest.name}"
            )
        top_k = request.top_k or min(DEFAULT_TOP_K, classes)
        if count * top_k > MAX_SCORES:
            raise InvalidRequest(
                f"top_k: {top_k} for each of {count} images, must be {MAX_SCORES:,} in all at most"
            )
        if len(request.request_id) > MAX_NAME:
            raise InvalidRequest(f"request_id: more than {MAX_NAME} characters")
        return top_k

    async def _rows(self, images: Sequence[pb.Image], spec: InputSpec) -> tuple[Rows, float]:
        """Pixels [N, H, W, C] of all images, and the seconds it took to decode them."""
        encoded = []
        raw = []
        for index, image in enumerate(images):
            content = image.WhichOneof("content")
            if content == "pixels":
                raw.append((index, _pixels(index, image.pixels, spec)))
            elif content == "encoded":
                encoded.append((index, image.encoded))
            else:
                raise InvalidRequest(f"images[{index}]: needs either encoded or pixels")
        if not encoded:
            data = raw[0][1] if len(raw) == 1 else b"".join(one for _, one in raw)
            return np.frombuffer(data, np.uint8).reshape(-1, *spec.shape), 0.0
        start = monotonic()
        rows = np.empty((len(images), *spec.shape), np.uint8)
        for index, data in raw:
            rows[index] = np.frombuffer(data, np.uint8).reshape(spec.shape)
        await self._decoder.decode(encoded, spec, rows)
        return rows, monotonic() - start

    async def _outcome(
        self, request: pb.ClassifyRequest, deadline: float
    ) -> pb.ClassifyStreamResponse:
        try:
            return pb.ClassifyStreamResponse(
                response=await self.classify(request, deadline=deadline)
            )
        except Exception as error:
            code, text = status_of(error)
            if text == UNKNOWN_TEXT:
                log.exception("request_failed", request_id=request.request_id)
            return pb.ClassifyStreamResponse(
                error=pb.Error(
                    code=code,
                    message=text,
                    request_id=request.request_id[:MAX_NAME],
                    retry_pushback_ms=pushback_ms(error) or 0,
                )
            )

    def _note(self, error: RequestError, request: pb.ClassifyRequest | pb.GetModelRequest) -> None:
        """Count a refusal; log what the operator has to know and the caller must not."""
        if reason := _REASONS.get(type(error)):
            self._metrics.rejected[reason] += 1
        elif isinstance(error, ModelFailure):
            self._metrics.failed["model"] += 1
            log.error(
                "model_failed",
                model=request.model or "(default)",
                detail=error.detail,
                request_id=getattr(request, "request_id", ""),
            )


def _require_time(deadline: float) -> None:
    if monotonic() >= deadline:
        raise DeadlineExceeded("the deadline has passed")


def _pixels(index: int, pixels: pb.Pixels, spec: InputSpec) -> bytes:
    if (pixels.height, pixels.width, pixels.channels) != spec.shape:
        raise InvalidRequest(
            f"images[{index}].pixels: height x width x channels is {pixels.height} x "
            f"{pixels.width} x {pixels.channels}, the model takes {spec.height} x {spec.width} x "
            f"{spec.channels}; send encoded bytes to have the server resize"
        )
    if len(pixels.data) != spec.nbytes:
        raise InvalidRequest(
            f"images[{index}].pixels.data: {len(pixels.data)} bytes, must be {spec.nbytes}"
        )
    return pixels.data
