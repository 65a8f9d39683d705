"""A request to infer and its answer, with the extension for binary data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic_core import to_json

from service.errors import InvalidRequest
from service.oip import grpc_service_pb2 as pb
from service.oip.describing import ENCODED_NAME
from service.rest import tensors
from service.rest.call import Call, Kind, Told
from service.rest.http import BINARY, JSON, HttpError, Response
from service.rest.json import elements, members, read_object, text

HEADER_LENGTH = b"inference-header-content-length"
# Parameters that say how tensors travel.
SIZE, WANTED, ALL_WANTED = "binary_data_size", "binary_data", "binary_data_output"
REGION = "shared_memory_region"
# More than any model takes or gives; and dimensions than any tensor has.
MOST_TENSORS = 16
MOST_PARAMETERS = 64
MOST_DIMENSIONS = 64
# Writing them holds everybody else up, for a thirtieth of a second with so many: a thousand classes
# of 256 images.
MAX_JSON_ELEMENTS = 2**18

Parameters = Mapping[str, pb.InferParameter]


def read_infer(kind: Kind, call: Call) -> Told:
    """The request in the body. Raises: InvalidRequest."""
    request = call.request = kind(model_name=call.name("model"), model_version=call.name("version"))
    length = _header_length(call)
    if length == 0 and call.body:
        return _read_file(request, call.body)
    given = read_object(call.body[:length])
    binary = _Binary(call.body, len(call.body) if length is None else length)
    request.id = text(given.get("id"), "id")
    _put(request.parameters, given.get("parameters"), "")
    for index, one in enumerate(_tensors(given, "inputs")):
        if (data := _read_input(request.inputs.add(), one, f"inputs[{index}]", binary)) is not None:
            request.raw_input_contents.append(data)
    for index, one in enumerate(_tensors(given, "outputs")):
        where = f"outputs[{index}]"
        output = request.outputs.add(name=text(one.get("name"), f"{where}: name"))
        _put(output.parameters, one.get("parameters"), where)
    binary.end()
    return request


def write_infer(call: Call, response: pb.ModelInferResponse) -> Response:
    """The answer in JSON, in binary form where that is wanted.

    Raises: HttpError where it is too much for JSON.
    """
    told: dict[str, Any] = {"id": response.id} if response.id else {}
    told |= {"model_name": response.model_name, "model_version": response.model_version}
    if response.parameters:
        told["parameters"] = _plain(response.parameters)
    told["outputs"], binary = [], []
    for tensor, data in zip(response.outputs, response.raw_output_contents, strict=True):
        one = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        parameters = _plain(tensor.parameters)
        form = _form(call, tensor.name)
        if form == "binary":
            parameters[SIZE] = len(data)
            binary.append(data)
        elif form == "json":
            _check_elements(tensor)
            one["data"] = tensors.unpack(data, tensor.datatype)
        told["outputs"].append({**one, "parameters": parameters} if parameters else one)
    head = to_json(told)
    if not binary:
        return Response(200, head, [(b"content-type", JSON)])
    headers = [(b"content-type", BINARY), (HEADER_LENGTH, b"%d" % len(head))]
    return Response(200, b"".join([head, *binary]), headers)


def _check_elements(tensor: pb.ModelInferResponse.InferOutputTensor) -> None:
    if (count := math.prod(tensor.shape)) > MAX_JSON_ELEMENTS:
        raise HttpError(
            400,
            f"{tensor.name}: {count:,} elements, must be {MAX_JSON_ELEMENTS:,} at most in JSON; "
            "ask for binary data (binary_data_output), or for the best classes (classification)",
        )


class _Binary:
    """What follows the JSON, taken from one tensor after the other."""

    def __init__(self, body: bytes, begin: int) -> None:
        self._data = body
        self._at = begin

    def take(self, size: object, where: str) -> bytes:
        left = len(self._data) - self._at
        if type(size) is not int or not 0 <= size <= left:
            raise InvalidRequest(
                f"{where}: parameters[{SIZE}]: must be the bytes of this tensor after the JSON, "
                f"of which {left:,} are left; the header Inference-Header-Content-Length must be "
                "the length of the JSON"
            )
        begin = self._at
        self._at += size
        return self._data[begin : self._at]

    def end(self) -> None:
        if left := len(self._data) - self._at:
            raise InvalidRequest(f"the body has {left:,} bytes more than its tensors and its JSON")


def _header_length(call: Call) -> int | None:
    """Bytes of JSON at the beginning of the body; None where it is all JSON."""
    value = call.headers.get(HEADER_LENGTH)
    if value is None:
        return None
    if not value.isdigit() or len(value) > 10 or int(value) > len(call.body):
        raise InvalidRequest(
            "Inference-Header-Content-Length: must be the length of the JSON at the beginning of "
            f"the body, which has {len(call.body):,} bytes"
        )
    return int(value)


def _read_file(request: pb.ModelInferRequest, body: bytes) -> pb.ModelInferRequest:
    """A body without JSON: one element, here one image file."""
    request.inputs.add(name=ENCODED_NAME, datatype=tensors.BYTES, shape=[1])
    request.raw_input_contents.append(tensors.join([body]))
    return request


def _tensors(given: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    many = elements(given.get(name), name)
    if len(many) > MOST_TENSORS:
        raise InvalidRequest(f"{name}: {len(many)}, must be {MOST_TENSORS} at most")
    return (members(one, f"{name}[{index}]") for index, one in enumerate(many))


def _read_input(
    tensor: pb.ModelInferRequest.InferInputTensor,
    given: dict[str, Any],
    where: str,
    binary: _Binary,
) -> bytes | None:
    """Fill the tensor; its elements, or None where they lie in shared memory."""
    tensor.name = text(given.get("name"), f"{where}: name")
    tensor.datatype = text(given.get("datatype"), f"{where}: datatype")
    tensor.shape.extend(_shape(given.get("shape"), where))
    parameters = members(given.get("parameters"), f"{where}: parameters")
    _put(tensor.parameters, parameters, where)
    sources = [name for name in (SIZE, REGION) if name in parameters]
    sources += ["data"] if "data" in given else []
    if len(sources) != 1:
        raise InvalidRequest(
            f"{where}: its elements are given by {' and '.join(sources) or 'nothing'}; must be "
            f"one of data, parameters[{SIZE}] and parameters[{REGION}]"
        )
    if "data" in given:
        data = elements(given["data"], f"{where}: data")
        return tensors.pack(data, tensor.datatype, where)
    return binary.take(parameters[SIZE], where) if SIZE in parameters else None


def _shape(value: object, where: str) -> list[int]:
    shape = elements(value, f"{where}: shape")
    sizes = all(type(one) is int and -(2**63) <= one < 2**63 for one in shape)
    if not sizes or len(shape) > MOST_DIMENSIONS:
        raise InvalidRequest(
            f"{where}: shape: must be whole numbers, {MOST_DIMENSIONS} of them at most"
        )
    return shape


def _put(parameters: Any, given: object, where: str) -> None:
    """Set the parameters of a message, a map whose entries make themselves."""
    where = f"{where}: parameters" if where else "parameters"
    values = members(given, where)
    if len(values) > MOST_PARAMETERS:
        raise InvalidRequest(f"{where}: {len(values)}, must be {MOST_PARAMETERS} at most")
    for name, value in values.items():
        if (choice := _choice(value)) is None:
            raise InvalidRequest(
                f"{where}[{name[:64]}]: must be a string, a truth value or a number of 64 bits"
            )
        setattr(parameters[name], choice, value)


def _choice(value: object) -> str | None:
    if isinstance(value, bool):
        return "bool_param"
    if isinstance(value, int):
        if -(2**63) <= value < 2**63:
            return "int64_param"
        return "uint64_param" if 0 <= value < 2**64 else None
    if isinstance(value, float):
        return "double_param"
    return "string_param" if isinstance(value, str) else None


def _form(call: Call, name: str) -> Literal["binary", "json", "memory"]:
    """How the caller wants the elements of an output."""
    wanted = _plain(call.request.parameters).get(ALL_WANTED, False)
    for one in call.request.outputs:
        if one.name == name:
            if REGION in one.parameters:
                return "memory"
            wanted = _plain(one.parameters).get(WANTED, wanted)
    return "binary" if wanted else "json"


def _plain(parameters: Parameters) -> dict[str, Any]:
    kinds = {name: one.WhichOneof("parameter_choice") for name, one in parameters.items()}
    return {name: getattr(parameters[name], kind) for name, kind in kinds.items() if kind}
