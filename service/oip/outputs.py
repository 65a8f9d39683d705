"""What a ModelInferRequest wants to be told, and how it is told."""

from __future__ import annotations

from dataclasses import dataclass

from convoy.bundle import OUTPUT_NAME
from service.errors import InvalidRequest
from service.oip import grpc_service_pb2 as pb
from service.oip.inputs import LENGTH_BYTES
from service.oip.parameters import number
from service.oip.regions import Place, Regions
from service.oip.shown import quoted
from service.pipeline import MAX_SCORES
from service.replies import top_classes
from service.served import ServedModel
from service.session import Scores

Tensor = pb.ModelInferResponse.InferOutputTensor


@dataclass(frozen=True, slots=True)
class Output:
    """The probabilities as they are wanted: all of them, or the `top` classes of each image."""

    top: int = 0
    where: str = ""
    place: Place | None = None
    """Where it is to be written in shared memory."""


def find_output(
    request: pb.ModelInferRequest, model: ServedModel, count: int, regions: Regions
) -> Output:
    """What a request of `count` images wants. Raises: InvalidRequest, RegionNotFound."""
    for index, one in enumerate(request.outputs):
        if one.name != OUTPUT_NAME:
            raise InvalidRequest(
                f"outputs[{index}]: there is no output {quoted(one.name)}; "
                f"the only one is {OUTPUT_NAME}"
            )
    if len(request.outputs) > 1:
        raise InvalidRequest(f"outputs: {OUTPUT_NAME} is asked for {len(request.outputs)} times")
    if not request.outputs:
        return Output()
    parameters = request.outputs[0].parameters
    where = f"outputs[0] ({OUTPUT_NAME})"
    top = min(number(parameters, "classification", where), len(model.labels))
    if "classification" in parameters and top == 0:
        raise InvalidRequest(f"{where}: parameters[classification]: 0 classes, must be at least 1")
    if count * top > MAX_SCORES:
        raise InvalidRequest(
            f"{where}: parameters[classification]: {top} classes for each of {count} images, "
            f"must be {MAX_SCORES:,} in all at most"
        )
    return Output(top, where, regions.find(parameters, where))


def write_output(
    scores: Scores, output: Output, model: ServedModel, regions: Regions
) -> tuple[Tensor, bytes]:
    """The tensor that tells probabilities [N, K], and its elements unless in shared memory.

    Raises: InvalidRequest, RegionNotFound.
    """
    if output.top:
        tensor = Tensor(name=OUTPUT_NAME, datatype="BYTES", shape=[len(scores), output.top])
        elements = _named(scores, output, model)
    else:
        tensor = Tensor(name=OUTPUT_NAME, datatype="FP32", shape=scores.shape)
        elements = scores.astype("<f4", copy=False).tobytes()
    if output.place is None:
        return tensor, elements
    if len(elements) > output.place.byte_size:
        raise InvalidRequest(
            f"{output.where}: {len(elements):,} bytes, its place in shared memory has "
            f"{output.place.byte_size:,}"
        )
    regions.write(output.place, elements)
    return tensor, b""


def _named(scores: Scores, output: Output, model: ServedModel) -> bytes:
    """ "probability:index:label" of the top classes of each row, with their lengths."""
    parts = []
    for row in scores:
        for index, probability in top_classes(row, output.top):
            text = f"{probability:f}:{index}:{model.labels[index]}".encode()
            parts += [len(text).to_bytes(LENGTH_BYTES, "little"), text]
    return b"".join(parts)
