"""Good and bad requests, in the order in which they are sent, and why the answers differ.

They are sent to servers with the model `tiny` (versions 1 and 2, of which the newest serves; pixels
in `images`) and `files` (image files in `encoded_images`). KEY names an object of shared memory
with the pixels of NOISE and ROOM bytes for their probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from grpc_health.v1 import health_pb2

from service.oip import grpc_service_pb2 as pb
from tests.bundles import solid
from tests.conformance.calls import Call
from tests.service.inference import files_request, pixels_request, top

NOISE = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8)
KEY, ROOM = "convoy-conformance", 3 * 3 * 4
SIZE = NOISE.nbytes + ROOM
RED, BLUE = solid("red"), solid("blue")

Request = pb.ModelInferRequest
Parameter = pb.InferParameter
Region = pb.SystemSharedMemoryRegisterRequest


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    call: Call
    until: str = ""
    """What the answer has in the end: Triton counts a request after it has answered it."""

    @property
    def why(self) -> str:
        """What explains another status code, or another answer."""
        return WHY.get(self.name, "")


Group = tuple[str, tuple[Case, ...]]


def infer(name: str, request: Request | bytes) -> Case:
    return Case(name, Call("ModelInfer", request))


def asked(name: str, method: str, request: Any, until: str = "") -> Case:
    return Case(name, Call(method, request), until)


def changed(change: Callable[[Request], Any], request: Request | None = None) -> Request:
    """A good request with one change."""
    request = request or pixels_request(NOISE)
    change(request)
    return request


def shaped(*shape: int) -> Request:
    def reshape(request: Request) -> None:
        request.inputs[0].shape[:] = shape

    return changed(reshape)


def raw(*contents: bytes, request: Request | None = None) -> Request:
    def write(request: Request) -> None:
        request.raw_input_contents[:] = contents

    return changed(write, request)


def typed(field: str, values: list[Any], *, datatype: str = "UINT8") -> Request:
    def write(request: Request) -> None:
        del request.raw_input_contents[:]
        request.inputs[0].datatype = datatype
        getattr(request.inputs[0].contents, field).extend(values)

    return changed(write)


def as_type(datatype: str, pixels: Any = NOISE) -> Request:
    def write(request: Request) -> None:
        request.inputs[0].datatype = datatype
        request.raw_input_contents[:] = [pixels.tobytes()]

    return changed(write)


def of_files(data: bytes, count: int = 1) -> Request:
    request = raw(data, request=files_request(*[RED] * count))
    request.model_name = "files"
    return request


def with_parameters(**parameters: Parameter) -> Request:
    return pixels_request(NOISE, parameters=parameters)


def output(name: str, **parameters: Parameter) -> Request.InferRequestedOutputTensor:
    return Request.InferRequestedOutputTensor(name=name, parameters=parameters)


def place(tensor: Any, byte_size: int, offset: int = 0, region: str = "r") -> None:
    tensor.parameters["shared_memory_region"].string_param = region
    tensor.parameters["shared_memory_byte_size"].int64_param = byte_size
    if offset:
        tensor.parameters["shared_memory_offset"].int64_param = offset


def from_region(byte_size: int = NOISE.nbytes, offset: int = 0, region: str = "r") -> Request:
    request = raw()
    place(request.inputs[0], byte_size, offset, region)
    return request


def into_region(byte_size: int, offset: int) -> Request:
    request = pixels_request(NOISE)
    place(request.outputs.add(name="probabilities"), byte_size, offset)
    return request


def log_setting(name: str, **value: Any) -> pb.LogSettingsRequest:
    return pb.LogSettingsRequest(settings={name: pb.LogSettingsRequest.SettingValue(**value)})


def trace_level(*value: str) -> pb.TraceSettingRequest:
    setting = pb.TraceSettingRequest.SettingValue(value=value)
    return pb.TraceSettingRequest(settings={"trace_level": setting})


def register(name: str, key: str = f"/{KEY}", offset: int = 0, byte_size: int = SIZE) -> Region:
    return Region(name=name, key=key, offset=offset, byte_size=byte_size)


SERVER: Group = "The server", (
    asked("ServerLive", "ServerLive", pb.ServerLiveRequest()),
    asked("ServerReady", "ServerReady", pb.ServerReadyRequest()),
    asked("ServerMetadata", "ServerMetadata", pb.ServerMetadataRequest()),
    asked("health of the server", "Check", health_pb2.HealthCheckRequest()),
    asked("health of a service that there is not", "Check",
          health_pb2.HealthCheckRequest(service="none")),
)  # fmt: skip

MODELS: Group = "Models", (
    asked("ModelReady", "ModelReady", pb.ModelReadyRequest(name="tiny")),
    asked("ModelReady, version 2", "ModelReady", pb.ModelReadyRequest(name="tiny", version="2")),
    asked("ModelReady, version 9", "ModelReady", pb.ModelReadyRequest(name="tiny", version="9")),
    asked("ModelReady, version `new`", "ModelReady",
          pb.ModelReadyRequest(name="tiny", version="new")),
    asked("ModelReady, unknown model", "ModelReady", pb.ModelReadyRequest(name="none")),
    asked("ModelMetadata", "ModelMetadata", pb.ModelMetadataRequest(name="tiny")),
    asked("ModelMetadata, unknown model", "ModelMetadata", pb.ModelMetadataRequest(name="none")),
    asked("ModelMetadata, version 9", "ModelMetadata",
          pb.ModelMetadataRequest(name="tiny", version="9")),
    asked("ModelMetadata without a name", "ModelMetadata", pb.ModelMetadataRequest()),
    asked("ModelConfig", "ModelConfig", pb.ModelConfigRequest(name="tiny")),
    asked("ModelConfig, unknown model", "ModelConfig", pb.ModelConfigRequest(name="none")),
    asked("ModelStatistics before any request", "ModelStatistics",
          pb.ModelStatisticsRequest(name="tiny")),
    asked("ModelStatistics, unknown model", "ModelStatistics",
          pb.ModelStatisticsRequest(name="none")),
    asked("RepositoryIndex", "RepositoryIndex", pb.RepositoryIndexRequest()),
    asked("RepositoryIndex of ready models", "RepositoryIndex",
          pb.RepositoryIndexRequest(ready=True)),
    asked("RepositoryIndex of a named repository", "RepositoryIndex",
          pb.RepositoryIndexRequest(repository_name="x")),
    asked("RepositoryModelLoad, control off", "RepositoryModelLoad",
          pb.RepositoryModelLoadRequest(model_name="tiny")),
    asked("RepositoryModelUnload, control off", "RepositoryModelUnload",
          pb.RepositoryModelUnloadRequest(model_name="tiny")),
)  # fmt: skip

GOOD: Group = "Good requests", (
    infer("raw pixels", pixels_request(NOISE)),
    asked("ModelStatistics after it", "ModelStatistics", pb.ModelStatisticsRequest(name="tiny"),
          until="execution_count: 1"),
    infer("one image", pixels_request(NOISE[:1])),
    infer("a full batch of 32", pixels_request(np.concatenate([NOISE] * 11)[:32])),
    infer("typed contents", typed("uint_contents", NOISE.ravel().tolist())),
    infer("an id", pixels_request(NOISE, id="r-1")),
    infer("version 2", pixels_request(NOISE, model_version="2")),
    infer("the output by name", pixels_request(NOISE, outputs=[output("probabilities")])),
    infer("classification, 1 class", pixels_request(NOISE, outputs=[top(1)])),
    infer("classification, 2 classes", pixels_request(NOISE, outputs=[top(2)])),
    infer("classification, more classes than there are", pixels_request(NOISE, outputs=[top(9)])),
    infer("classification, 0 classes", pixels_request(NOISE, outputs=[top(0)])),
    infer("priority 1", with_parameters(priority=Parameter(uint64_param=1))),
    infer("timeout of 20 s", with_parameters(timeout=Parameter(int64_param=20_000_000))),
    infer("timeout of 1 microsecond", with_parameters(timeout=Parameter(int64_param=1))),
    infer("a sequence id", with_parameters(sequence_id=Parameter(int64_param=7))),
    infer("an unknown parameter", with_parameters(colour=Parameter(string_param="red"))),
    infer("a parameter of Triton's own", with_parameters(triton_x=Parameter(bool_param=True))),
    infer("BYTES", of_files(b"".join(len(one).to_bytes(4, "little") + one for one in (RED, BLUE)),
                            2)),
    infer("an unknown field in the message",
          pixels_request(NOISE).SerializeToString() + b"\xfa\x07\x02hi"),
)  # fmt: skip

WRONG: Group = "Bad requests", (
    infer("unknown model", Request(model_name="none")),
    infer("no model", changed(lambda one: setattr(one, "model_name", ""))),
    infer("version 9", pixels_request(NOISE, model_version="9")),
    infer("version 1, which is not served", pixels_request(NOISE, model_version="1")),
    infer("version `new`", pixels_request(NOISE, model_version="new")),
    infer("version -1", pixels_request(NOISE, model_version="-1")),
    infer("version 0", pixels_request(NOISE, model_version="0")),
    infer("an id of 200 characters", pixels_request(NOISE, id="x" * 200)),
    infer("an empty message", b""),
    infer("a message cut in half", pixels_request(NOISE).SerializeToString()[:4000]),
    infer("no input", Request(model_name="tiny")),
    infer("unknown input", changed(lambda one: setattr(one.inputs[0], "name", "pixels"))),
    infer("an input too many", changed(lambda one: one.inputs.add(
        name="more", datatype="UINT8", shape=[1]))),
    infer("the input twice", changed(lambda one: (
        one.inputs.append(one.inputs[0]), one.raw_input_contents.append(NOISE.tobytes())))),
    infer("datatype FP32", as_type("FP32", NOISE.astype(np.float32))),
    infer("datatype FP16", as_type("FP16", NOISE.astype(np.float16))),
    infer("datatype INT8", as_type("INT8")),
    infer("datatype uint8 in lower case", as_type("uint8")),
    infer("datatype IMAGE", as_type("IMAGE")),
    infer("no datatype", as_type("")),
    infer("no shape", shaped()),
    infer("no dimension of the batch", shaped(32, 32, 3)),
    infer("a dimension too many", shaped(1, 3, 32, 32, 3)),
    infer("another image size", shaped(3, 16, 64, 3)),
    infer("-1 images", shaped(-1, 32, 32, 3)),
    infer("a negative side", shaped(3, -32, -32, 3)),
    infer("0 images", changed(lambda one: one.raw_input_contents.append(b""),
                              changed(lambda one: one.raw_input_contents.pop(),
                                      shaped(0, 32, 32, 3)))),
    infer("33 images, one more than a batch", pixels_request(np.concatenate([NOISE] * 11))),
    infer("4 images claimed, 3 sent", shaped(4, 32, 32, 3)),
    infer("2 images claimed, 3 sent", shaped(2, 32, 32, 3)),
    infer("2^62 images claimed", shaped(2**62, 32, 32, 3)),
    infer("sizes whose product overflows", shaped(2**32, 2**32, 32, 3)),
    infer("no contents", raw()),
    infer("empty contents", raw(b"")),
    infer("contents twice", raw(NOISE.tobytes(), NOISE.tobytes())),
    infer("raw and typed contents",
          changed(lambda one: one.inputs[0].contents.uint_contents.append(1))),
    infer("typed, too few", typed("uint_contents", [1, 2, 3])),
    infer("typed, one too many", typed("uint_contents", [1] * (NOISE.size + 1))),
    infer("typed, in the field of INT32", typed("int_contents", [1] * NOISE.size)),
    infer("typed, above 255", typed("uint_contents", [300] * NOISE.size)),
    infer("typed FP16", typed("fp32_contents", [1.0] * NOISE.size, datatype="FP16")),
    infer("BYTES, a length cut off", of_files(b"\1\0")),
    infer("BYTES, an element cut off", of_files(b"\x09\0\0\0ab")),
    infer("BYTES, a length of 4 GB", of_files(b"\xff\xff\xff\xffab")),
    infer("BYTES, an element missing", of_files(len(RED).to_bytes(4, "little") + RED, 2)),
    infer("BYTES, more than its elements",
          of_files((len(RED).to_bytes(4, "little") + RED) * 2)),
    infer("unknown output", pixels_request(NOISE, outputs=[output("scores")])),
    infer("the output twice", pixels_request(NOISE, outputs=[top(1), top(1)])),
    infer("classification, -1 classes", pixels_request(NOISE, outputs=[top(-1)])),
    infer("classification in words", pixels_request(NOISE, outputs=[
        output("probabilities", classification=Parameter(string_param="all"))])),
    infer("timeout in words", with_parameters(timeout=Parameter(string_param="soon"))),
    infer("timeout -1", with_parameters(timeout=Parameter(int64_param=-1))),
    infer("priority in words", with_parameters(priority=Parameter(string_param="high"))),
)  # fmt: skip

STREAMS: Group = "Streams", (
    asked("two requests", "ModelStreamInfer",
          (pixels_request(NOISE[:1], id="a"), pixels_request(NOISE[1:], id="b"))),
    asked("no request", "ModelStreamInfer", ()),
    asked("good, bad, good", "ModelStreamInfer",
          (pixels_request(NOISE[:1], id="a"), pixels_request(NOISE, id="b", model_name="none"),
           pixels_request(NOISE[:1], id="c"))),
    asked("a wrong shape", "ModelStreamInfer", (shaped(3, 16, 64, 3),)),
    Case("unknown model, with the header `triton_grpc_error: true`",
         Call("ModelStreamInfer", (Request(model_name="none"),),
              (("triton_grpc_error", "true"),))),
)  # fmt: skip

SHARED_MEMORY: Group = "Shared memory", (
    asked("status without regions", "SystemSharedMemoryStatus",
          pb.SystemSharedMemoryStatusRequest()),
    asked("an object that there is not", "SystemSharedMemoryRegister",
          register("t1", key="/convoy-none")),
    asked("no key", "SystemSharedMemoryRegister", register("t2", key="")),
    asked("a key that leads elsewhere", "SystemSharedMemoryRegister",
          register("t3", key="/../../etc/passwd")),
    asked("more bytes than the object has", "SystemSharedMemoryRegister",
          register("t4", byte_size=SIZE + 8192)),
    asked("an offset beyond the object", "SystemSharedMemoryRegister",
          register("t5", offset=2**20, byte_size=1)),
    asked("an extent that overflows", "SystemSharedMemoryRegister",
          register("t6", offset=2**64 - 8, byte_size=16)),
    asked("0 bytes", "SystemSharedMemoryRegister", register("t7", byte_size=0)),
    asked("no name", "SystemSharedMemoryRegister", register("")),
    asked("unregister all", "SystemSharedMemoryUnregister",
          pb.SystemSharedMemoryUnregisterRequest()),
    asked("register", "SystemSharedMemoryRegister", register("r")),
    asked("register it again", "SystemSharedMemoryRegister", register("r")),
    asked("register its name with another extent", "SystemSharedMemoryRegister",
          register("r", byte_size=8)),
    asked("register the same object by another name", "SystemSharedMemoryRegister",
          register("s", offset=4096, byte_size=64)),
    asked("status of all", "SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest()),
    asked("status of one", "SystemSharedMemoryStatus",
          pb.SystemSharedMemoryStatusRequest(name="r")),
    asked("status of one that there is not", "SystemSharedMemoryStatus",
          pb.SystemSharedMemoryStatusRequest(name="none")),
    infer("pixels in a region", from_region()),
    infer("the answer into a region", into_region(ROOM, NOISE.nbytes)),
    infer("an unknown region", from_region(region="none")),
    infer("beyond the end of the region", from_region(offset=ROOM + 1)),
    infer("a place that overflows", from_region(2**63 - 1, 2**63 - 1)),
    infer("a negative offset", from_region(offset=-8)),
    infer("a negative size", from_region(-1)),
    infer("fewer bytes than the shape", from_region(NOISE.nbytes - 1)),
    infer("more bytes than the shape", from_region(NOISE.nbytes + 1)),
    infer("too little room for the answer", into_region(ROOM - 4, 0)),
    infer("a region beside raw contents", changed(
        lambda one: one.raw_input_contents.append(NOISE.tobytes()), from_region())),
    infer("a region beside typed contents", changed(
        lambda one: one.inputs[0].contents.uint_contents.append(1), from_region())),
    asked("unregister one that there is not", "SystemSharedMemoryUnregister",
          pb.SystemSharedMemoryUnregisterRequest(name="none")),
    asked("unregister one", "SystemSharedMemoryUnregister",
          pb.SystemSharedMemoryUnregisterRequest(name="r")),
    infer("pixels in a region that is gone", from_region()),
    asked("CudaSharedMemoryStatus", "CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusRequest()),
    asked("CudaSharedMemoryRegister", "CudaSharedMemoryRegister",
          pb.CudaSharedMemoryRegisterRequest(name="c", raw_handle=b"x" * 64, byte_size=8)),
    asked("CudaSharedMemoryUnregister", "CudaSharedMemoryUnregister",
          pb.CudaSharedMemoryUnregisterRequest()),
)  # fmt: skip

SETTINGS: Group = "Settings", (
    asked("LogSettings, read", "LogSettings", pb.LogSettingsRequest()),
    asked("log_verbose_level to 1", "LogSettings",
          log_setting("log_verbose_level", uint32_param=1)),
    asked("log_verbose_level back to 0", "LogSettings",
          log_setting("log_verbose_level", uint32_param=0)),
    asked("log_info to a number", "LogSettings", log_setting("log_info", uint32_param=1)),
    asked("an unknown log setting", "LogSettings", log_setting("log_colour", bool_param=True)),
    asked("log_file elsewhere", "LogSettings", log_setting("log_file", string_param="/nowhere/x")),
    asked("TraceSetting, read", "TraceSetting", pb.TraceSettingRequest()),
    asked("trace_level OFF", "TraceSetting", trace_level("OFF")),
    asked("trace_level TIMESTAMPS", "TraceSetting", trace_level("TIMESTAMPS")),
    asked("trace_level LOUD", "TraceSetting", trace_level("LOUD")),
)  # fmt: skip

NO_DEFAULT = "an empty name means the default model, and of several models none is it"
LABEL = "a version that begins with a letter is a label"
CONTROL = "it will not help to try again, as UNAVAILABLE would say"
MANGLED = "the caller's mistake, not the server's"
NO_CUDA = "said at once, not when the first tensor is sent"
LOG = "its own log format"
NO_TRACING = "there is no tracing"
WHY = {
    "ServerMetadata": "its own name, version and extensions",
    "health of a service that there is not": "what gRPC's health protocol asks for",
    "ModelReady, version `new`": LABEL,
    "ModelMetadata": "ONNX Runtime without Python; OIP's `properties`, which Triton has not",
    "ModelMetadata without a name": NO_DEFAULT,
    "ModelConfig": "ONNX Runtime without Python; tells the layout (NHWC) of the pixels",
    "ModelStatistics, unknown model": "as every other method says it",
    "RepositoryModelLoad, control off": CONTROL,
    "RepositoryModelUnload, control off": CONTROL,
    "ModelStatistics after it": "no `batch_stats`: times by batch size are not kept",
    "timeout of 1 microsecond": "always heeded; Triton needs a queue policy of the model for it",
    "a parameter of Triton's own": "parameters that are not known are ignored",
    "no model": NO_DEFAULT,
    "version `new`": LABEL,
    "version 0": "no version: they begin with 1",
    "an id of 200 characters": "ids stand in the log: 128 characters at most",
    "an empty message": NO_DEFAULT,
    "a message cut in half": MANGLED,
    "33 images, one more than a batch": "cut into several batches; 256 images at most",
    "contents twice": "which of the two is meant, nobody knows",
    "typed, above 255": "no pixel; Triton takes the lowest 8 bits",
    "the output twice": "their parameters could contradict each other",
    "timeout -1": "no duration; Triton ignores it (see above)",
    "register the same object by another name": "nothing speaks against it",
    "an object that there is not": MANGLED,
    "no key": MANGLED,
    "a key that leads elsewhere": MANGLED,
    "no name": "an empty name means all regions",
    "status of all": "the region that Triton would not register",
    "too little room for the answer": MANGLED,
    "a region beside raw contents": "which of the two is meant, nobody knows",
    "CudaSharedMemoryStatus": NO_CUDA,
    "CudaSharedMemoryRegister": NO_CUDA,
    "LogSettings, read": LOG,
    "log_verbose_level to 1": LOG,
    "log_verbose_level back to 0": LOG,
    "an unknown log setting": "a typing error should not look like success",
    "TraceSetting, read": NO_TRACING,
    "trace_level OFF": NO_TRACING,
    "trace_level TIMESTAMPS": NO_TRACING,
    "trace_level LOUD": NO_TRACING,
}

GROUPS: tuple[Group, ...] = (SERVER, MODELS, GOOD, WRONG, STREAMS, SHARED_MEMORY, SETTINGS)


def cases() -> Iterator[Case]:
    """All of them, in order."""
    for _, group in GROUPS:
        yield from group
