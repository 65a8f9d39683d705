"""ModelInfer and ModelStreamInfer: the same way as Classify, in the words of the protocol."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator
from time import monotonic

from service.errors import DeadlineExceeded
from service.images import Images, empty_rows
from service.oip import grpc_service_pb2 as pb
from service.oip.information import number_or_label
from service.oip.inputs import Input, find_input, read_files, read_pixels, size_of, typed_pixels
from service.oip.outputs import Tensor, find_output, write_output
from service.oip.parameters import number, text
from service.oip.regions import Regions
from service.pipeline import MAX_NAME, Pipeline
from service.replies import observe
from service.repository import Route
from service.served import ServedModel
from service.status import told
from service.streaming import Claim

# Clients written for models that answer a request several times wait for it.
FINAL = "triton_final_response"


class Inference:
    """The methods of GRPCInferenceService that classify."""

    def __init__(self, pipeline: Pipeline, regions: Regions) -> None:
        self._pipeline = pipeline
        self._regions = regions

    async def model_infer(
        self, sized: tuple[pb.ModelInferRequest, int], *, deadline: float = math.inf
    ) -> pb.ModelInferResponse:
        """Answer one request of so many bytes before its `timeout` and the deadline.

        Raises: RequestError.
        """
        request, size = sized
        with self._pipeline.request(request.model_name, request.id):
            route = self._pipeline.route(
                request.model_name,
                *number_or_label(request.model_version),
                key=text(request.parameters, "routing_key", "") or request.id,
            )
            microseconds = number(request.parameters, "timeout", "")
            if not microseconds:
                return await self._infer(route, request, size, deadline)
            try:
                async with asyncio.timeout(microseconds / 1e6):
                    sooner = min(deadline, monotonic() + microseconds / 1e6)
                    return await self._infer(route, request, size, sooner)
            except (TimeoutError, DeadlineExceeded):
                raise DeadlineExceeded(
                    f"the request's timeout of {microseconds:,} microseconds has passed"
                ) from None

    def model_stream_infer(
        self,
        requests: AsyncIterator[tuple[pb.ModelInferRequest, int]],
        *,
        deadline: float = math.inf,
    ) -> AsyncGenerator[pb.ModelStreamInferResponse, None]:
        """Answer each request of a stream in order; a failed one does not end the stream.

        Each comes with its bytes. Raises: TooManyStreams, before anything is read.
        """
        return self._pipeline.stream(requests, lambda sized: self._outcome(sized, deadline), _claim)

    async def _infer(
        self, route: Route, request: pb.ModelInferRequest, size: int, deadline: float
    ) -> pb.ModelInferResponse:
        model = route.model
        source = find_input(request, model.spec, self._regions)
        shape = f"{source.where}: shape[0]"
        self._pipeline.check(source.count, request.id, images=shape, id_field="id")
        output = find_output(request, model, source.count, self._regions)
        level = model.level(number(request.parameters, "priority", ""))
        size = size_of(request, size)
        with self._pipeline.admitted(model, source.count, size, deadline=deadline, level=level):
            images = self._images(source, model)
            found = await self._pipeline.classify(route, images, deadline=deadline, level=level)
            written = write_output(found.scores, output, model, self._regions)
            response = _response(request, model, *written)
            observe(model, found)
            return response

    def _images(self, source: Input, model: ServedModel) -> Images:
        if not source.encoded and not source.typed:
            return Images(read_pixels(source, model.spec, self._regions))
        rows = empty_rows(model, source.count)
        if source.encoded:
            return Images(rows, read_files(source, self._regions), source.tensor.name)
        return Images(rows, steps=typed_pixels(source, rows))

    async def _outcome(
        self, sized: tuple[pb.ModelInferRequest, int], deadline: float
    ) -> pb.ModelStreamInferResponse:
        try:
            response = await self.model_infer(sized, deadline=deadline)
            response.parameters[FINAL].bool_param = True
            return pb.ModelStreamInferResponse(infer_response=response)
        except Exception as error:
            request = sized[0]
            _, text = told(error, request.id)
            return pb.ModelStreamInferResponse(
                error_message=text,
                infer_response=pb.ModelInferResponse(id=request.id[:MAX_NAME]),
            )


def _claim(sized: tuple[pb.ModelInferRequest, int]) -> Claim:
    request, size = sized
    shapes = (tensor.shape for tensor in request.inputs)
    return Claim(
        request.model_name,
        *number_or_label(request.model_version),
        max((shape[0] for shape in shapes if shape), default=0),
        size_of(request, size),
        number(request.parameters, "priority", ""),
    )


def _response(
    request: pb.ModelInferRequest, model: ServedModel, tensor: Tensor, elements: bytes
) -> pb.ModelInferResponse:
    return pb.ModelInferResponse(
        model_name=model.manifest.name,
        model_version=str(model.manifest.version),
        id=request.id,
        outputs=[tensor],
        raw_output_contents=[elements],
    )
