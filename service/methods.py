"""The RPC methods of convoy.v1.ImageClassifier, as plain functions over its messages.

They know no transport: a front hands them a request and its deadline, cancels them when the caller
has left, and maps the errors they raise with service/status.py.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from time import monotonic

import numpy as np
import structlog
from numpy.typing import NDArray

from convoy.imaging import InputSpec
from convoy.v1 import image_classifier_pb2 as pb
from service.batching import Item
from service.decoding import Decoder
from service.errors import (
    DeadlineExceeded,
    Draining,
    InvalidRequest,
    ModelFailure,
    ModelNotFound,
    Overloaded,
    RequestError,
)
from service.metrics import Metrics
from service.repository import Repository
from service.served import Rows, Scores, ServedModel
from service.status import UNKNOWN_TEXT, pushback_ms, status_of

DEFAULT_TOP_K = 5
MAX_NAME = 128
# Requests of one stream that are worked on at once: enough to fill the default batch twice.
STREAM_WINDOW = 64
# Below this many classes, sorting a Python list beats NumPy's call overhead.
FEW_CLASSES = 64

_REASONS = {
    InvalidRequest: "invalid",
    ModelNotFound: "not_found",
    Overloaded: "queue_full",
    Draining: "draining",
}
_TASKS = {"single-label": pb.TASK_SINGLE_LABEL, "multi-label": pb.TASK_MULTI_LABEL}

log = structlog.get_logger()


class ImageClassifier:
    """Classify, ClassifyStream, ListModels and GetModel."""

    def __init__(
        self, models: Repository, decoder: Decoder, metrics: Metrics, *, max_images: int
    ) -> None:
        self._models = models
        self._decoder = decoder
        self._metrics = metrics
        self._max_images = max_images
        self._draining = False

    def drain(self) -> None:
        """Refuse new requests; let those that wait run at once."""
        self._draining = True
        for model in self._models:
            model.flush()

    async def classify(
        self, request: pb.ClassifyRequest, *, deadline: float = math.inf
    ) -> pb.ClassifyResponse:
        """Answer one request; `deadline` is of the monotonic clock.

        Raises: RequestError.
        """
        self._metrics.in_flight += 1
        try:
            return await self._classify(request, deadline)
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
        """Answer each request of a stream in order; a failed one does not end the stream."""
        window: asyncio.Queue[asyncio.Task[pb.ClassifyStreamResponse] | Exception | None]
        window = asyncio.Queue(STREAM_WINDOW)

        async def read() -> None:
            try:
                async for request in requests:
                    await window.put(asyncio.create_task(self._outcome(request, deadline)))
            except Exception as error:
                await window.put(error)
            else:
                await window.put(None)

        reader = asyncio.create_task(read())
        try:
            while (outcome := await window.get()) is not None:
                if isinstance(outcome, Exception):
                    raise outcome
                yield await outcome
        finally:
            reader.cancel()
            while not window.empty():
                if isinstance(left := window.get_nowait(), asyncio.Task):
                    left.cancel()

    async def list_models(
        self, request: pb.ListModelsRequest, *, deadline: float = math.inf
    ) -> pb.ListModelsResponse:
        """Describe every model."""
        return pb.ListModelsResponse(models=[self._describe(model) for model in self._models])

    async def get_model(
        self, request: pb.GetModelRequest, *, deadline: float = math.inf
    ) -> pb.Model:
        """Describe one model. Raises: ModelNotFound, InvalidRequest."""
        try:
            return self._describe(self._models.get(request.model, request.version))
        except RequestError as error:
            self._note(error, request)
            raise

    async def _classify(self, request: pb.ClassifyRequest, deadline: float) -> pb.ClassifyResponse:
        if self._draining:
            raise Draining("the service is stopping")
        model = self._models.get(request.model, request.version)
        top_k = self._check(request, model)
        count, size = len(request.images), request.ByteSize()
        with model.admission.admit(count, size, deadline=deadline):
            start = monotonic()
            rows, decoded = await self._rows(request.images, model.spec)
            decode_seconds = monotonic() - start if decoded else 0.0
            if monotonic() >= deadline:
                raise DeadlineExceeded("the deadline passed while images were decoded")
            items = await model.classify(rows, deadline=deadline)
            response = _answer(request, model, items, top_k)
            _time(response.timings, model, items, decode_seconds)
            return response

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
        if len(request.request_id) > MAX_NAME:
            raise InvalidRequest(f"request_id: more than {MAX_NAME} characters")
        return request.top_k or min(DEFAULT_TOP_K, classes)

    async def _rows(self, images: Sequence[pb.Image], spec: InputSpec) -> tuple[Rows, bool]:
        """Pixels [N, H, W, C] of all images, and whether any had to be decoded."""
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
            return np.frombuffer(data, np.uint8).reshape(-1, *spec.shape), False
        rows = np.empty((len(images), *spec.shape), np.uint8)
        for index, data in raw:
            rows[index] = np.frombuffer(data, np.uint8).reshape(spec.shape)
        await self._decoder.decode(encoded, spec, rows)
        return rows, True

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

    def _describe(self, model: ServedModel) -> pb.Model:
        manifest = model.manifest
        quality = manifest.quality[0] if manifest.quality else None
        return pb.Model(
            name=manifest.name,
            version=manifest.version,
            is_default=manifest.name == self._models.default,
            task=_TASKS[manifest.task],
            labels=manifest.labels,
            height=manifest.input.height,
            width=manifest.input.width,
            channels=manifest.input.channels,
            precision=manifest.precision,
            provider=model.provider,
            max_batch_size=model.max_batch_size,
            test_accuracy=quality.accuracy if quality else 0.0,
            test_split=quality.split if quality else "",
        )

    def _note(self, error: RequestError, request: pb.ClassifyRequest | pb.GetModelRequest) -> None:
        """Count a refusal; log what the operator has to know and the caller must not."""
        if reason := _REASONS.get(type(error)):
            self._metrics.rejected[reason] += 1
        elif isinstance(error, ModelFailure):
            self._metrics.failed["model"] += 1
            log.error(
                "model_failed",
                model=request.model or self._models.default,
                detail=error.detail,
                request_id=getattr(request, "request_id", ""),
            )


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


def _answer(
    request: pb.ClassifyRequest, model: ServedModel, items: list[Item[Rows, Scores]], top_k: int
) -> pb.ClassifyResponse:
    manifest, labels = model.manifest, model.labels
    response = pb.ClassifyResponse(
        model=manifest.name, version=manifest.version, request_id=request.request_id
    )
    for item in items:
        for row in item.result.result():
            classes = response.predictions.add().classes
            for index, probability in top_classes(row, top_k):
                classes.add(index=index, label=labels[index], probability=probability)
    return response


def top_classes(row: NDArray[np.float32], k: int) -> list[tuple[int, float]]:
    """The k most probable classes of one row [K] with their probabilities; ties by index."""
    if len(row) <= FEW_CLASSES:
        scores = row.tolist()
        order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[:k]
        return [(index, scores[index]) for index in order]
    order = np.argsort(-row, kind="stable")[:k].tolist()
    return list(zip(order, row[order].tolist(), strict=True))


def _time(
    timings: pb.Timings, model: ServedModel, items: list[Item[Rows, Scores]], decode: float
) -> None:
    """Write the stages into the reply and observe the very same values."""
    first = items[0]
    queue, compute, finished = first.closed - first.enqueued, 0.0, 0.0
    for item in items:
        queue = max(queue, item.closed - item.enqueued)
        compute = max(compute, item.finished - item.closed)
        finished = max(finished, item.finished)
    answer = monotonic() - finished
    timings.queue_us = round(queue * 1e6)
    timings.compute_us = round(compute * 1e6)
    timings.answer_us = round(answer * 1e6)
    stages = model.metrics.stages
    if decode:
        timings.decode_us = round(decode * 1e6)
        stages["decode"].observe(decode)
    stages["queue"].observe(queue)
    stages["compute"].observe(compute)
    stages["answer"].observe(answer)
    model.metrics.images += sum(item.size for item in items)
