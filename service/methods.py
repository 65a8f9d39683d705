"""The RPC methods of convoy.v1.ImageClassifier, as plain functions over its messages.

They know no transport: a front hands them a request and its deadline, cancels them when the caller
has left, and maps the errors they raise with service/status.py.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

import numpy as np

from convoy.imaging import InputSpec
from convoy.v1 import image_classifier_pb2 as pb
from service.errors import InvalidRequest
from service.images import Images, empty_rows
from service.pipeline import MAX_NAME, MAX_SCORES, Pipeline
from service.replies import answer, describe, observe, write_times
from service.repository import Route
from service.served import ServedModel
from service.status import pushback_ms, told
from service.streaming import Claim

DEFAULT_TOP_K = 5


class ImageClassifier:
    """Classify, ClassifyStream, ListModels and GetModel."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def classify(
        self, sized: tuple[pb.ClassifyRequest, int], *, deadline: float = math.inf
    ) -> pb.ClassifyResponse:
        """Answer one request of so many bytes; `deadline` is of the monotonic clock.

        Raises: RequestError.
        """
        request, size = sized
        with self._pipeline.request(request.model, request.request_id):
            route = self._pipeline.route(
                request.model,
                request.version,
                request.version_label,
                key=request.routing_key or request.request_id,
            )
            return await self._classify(route, request, size, deadline)

    def classify_stream(
        self, requests: AsyncIterator[tuple[pb.ClassifyRequest, int]], *, deadline: float = math.inf
    ) -> AsyncGenerator[pb.ClassifyStreamResponse, None]:
        """Answer each request of a stream in order; a failed one does not end the stream.

        Each comes with its bytes. Raises: TooManyStreams, before anything is read.
        """
        return self._pipeline.stream(requests, lambda sized: self._outcome(sized, deadline), _claim)

    async def list_models(
        self, request: pb.ListModelsRequest, *, deadline: float = math.inf
    ) -> pb.ListModelsResponse:
        """Describe every model."""
        models = self._pipeline.models
        return pb.ListModelsResponse(models=[describe(one, models) for one in models])

    async def get_model(
        self, request: pb.GetModelRequest, *, deadline: float = math.inf
    ) -> pb.Model:
        """Describe one model. Raises: ModelNotFound, InvalidRequest."""
        with self._pipeline.question(request.model):
            model = self._pipeline.find(request.model, request.version, request.version_label)
            return describe(model, self._pipeline.models)

    async def _classify(
        self, route: Route, request: pb.ClassifyRequest, size: int, deadline: float
    ) -> pb.ClassifyResponse:
        model = route.model
        count = len(request.images)
        self._pipeline.check(count, request.request_id)
        top_k = _top_k(request, model)
        level = model.level(request.priority)
        with self._pipeline.admitted(model, count, size, deadline=deadline, level=level):
            images = _images(request.images, model)
            found = await self._pipeline.classify(route, images, deadline=deadline, level=level)
            response = answer(request, model, found.scores, top_k)
            write_times(response.timings, observe(model, found))
            return response

    async def _outcome(
        self, sized: tuple[pb.ClassifyRequest, int], deadline: float
    ) -> pb.ClassifyStreamResponse:
        try:
            return pb.ClassifyStreamResponse(response=await self.classify(sized, deadline=deadline))
        except Exception as error:
            request = sized[0]
            code, text = told(error, request.request_id)
            return pb.ClassifyStreamResponse(
                error=pb.Error(
                    code=code,
                    message=text,
                    request_id=request.request_id[:MAX_NAME],
                    retry_pushback_ms=pushback_ms(error) or 0,
                )
            )


def _claim(sized: tuple[pb.ClassifyRequest, int]) -> Claim:
    request, size = sized
    return Claim(
        request.model,
        request.version,
        request.version_label,
        len(request.images),
        size,
        request.priority,
    )


def _top_k(request: pb.ClassifyRequest, model: ServedModel) -> int:
    """How many classes to answer with. Raises: InvalidRequest."""
    count, classes = len(request.images), len(model.labels)
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
    return top_k


def _images(images: Sequence[pb.Image], model: ServedModel) -> Images:
    """What a message holds. Raises: InvalidRequest."""
    spec = model.spec
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
        return Images(np.frombuffer(data, np.uint8).reshape(-1, *spec.shape))
    rows = empty_rows(model, len(images))
    for index, data in raw:
        rows[index] = np.frombuffer(data, np.uint8).reshape(spec.shape)
    return Images(rows, encoded)


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
