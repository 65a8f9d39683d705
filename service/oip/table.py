"""The methods of GRPCInferenceService, by the names that they have on the wire."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from google.protobuf.message import Message

from service.control import ModelControl
from service.oip import grpc_service_pb2 as pb
from service.oip.control import Control
from service.oip.inference import Inference
from service.oip.information import Information
from service.oip.log_settings import LogSettings
from service.oip.missing import Missing
from service.oip.regions import Regions
from service.oip.shared_memory import SharedMemory
from service.pipeline import Pipeline
from service.settings import Settings
from service.wire import Nested

_SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
INFERENCE = _SERVICE.full_name
# No shape has so many dimensions.
_SHAPE_BYTES = 2**10
# Of numbers of types that no input takes: enough to be told so.
_CONTENTS_BYTES = 2**16
_CONTENTS: Nested = dict.fromkeys((1, 2, 3, 5, 6, 7), _CONTENTS_BYTES)
# Inputs with their shapes and contents, and outputs.
_INFER: Nested = {5: {3: _SHAPE_BYTES, 5: _CONTENTS}, 6: {}}
# Repeated fields below the top level of requests, by method.
NESTED: Mapping[str, Nested] = {
    "ModelInfer": _INFER,
    "ModelStreamInfer": _INFER,
    "TraceSetting": {1: {2: {}}},  # the entries of a map, and their values
}

INFERRING = ("ModelInfer", "ModelStreamInfer")
CONTROLLED = ("RepositoryModelLoad", "RepositoryModelUnload")


class OpenInference:
    """Everything that answers GRPCInferenceService."""

    def __init__(self, pipeline: Pipeline, control: ModelControl, settings: Settings) -> None:
        shared_memory = settings.shared_memory
        self._regions = Regions(enabled=shared_memory)
        self._parts = (
            Information(pipeline, shared_memory=shared_memory),
            Inference(pipeline, self._regions),
            SharedMemory(self._regions),
            Control(control),
            LogSettings(settings),
            Missing(),
        )

    def close(self) -> None:
        """Let go of all shared memory."""
        self._regions.clear()

    def methods(self) -> Iterator[tuple[str, type[Message], Callable[..., Any]]]:
        """Name on the wire, message that it takes, and what answers it."""
        for method in _SERVICE.methods:
            yield method.name, getattr(pb, method.input_type.name), self._answering(method.name)

    def _answering(self, method: str) -> Callable[..., Any]:
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", method).lower()
        for part in self._parts:
            if hasattr(part, name):
                call: Callable[..., Any] = getattr(part, name)
                return call
        raise NotImplementedError(f"{method}: nothing here has a method {name}")
