"""What a caller may ask about the server and its models."""

from __future__ import annotations

import math
from importlib.metadata import version

from service.errors import InvalidRequest, ModelNotFound, NotServing, Unsupported
from service.oip import grpc_service_pb2 as pb
from service.oip.describing import config, metadata, statistics
from service.oip.shown import quoted
from service.pipeline import Pipeline
from service.repository import State
from service.served import ServedModel

SERVER_NAME = "convoy"
EXTENSIONS = (
    "classification",
    "model_repository",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "schedule_policy",
    "statistics",
    "logging",
)
# What a version may be in a signed number of 64 bits.
MAX_VERSION_DIGITS = 18


class Information:
    """The methods of GRPCInferenceService that only tell something."""

    def __init__(self, pipeline: Pipeline, *, shared_memory: bool) -> None:
        self._pipeline = pipeline
        self._extensions = (*EXTENSIONS, *(["system_shared_memory"] if shared_memory else []))

    async def server_live(
        self, request: pb.ServerLiveRequest, *, deadline: float = math.inf
    ) -> pb.ServerLiveResponse:
        """Whoever can answer lives."""
        return pb.ServerLiveResponse(live=True)

    async def server_ready(
        self, request: pb.ServerReadyRequest, *, deadline: float = math.inf
    ) -> pb.ServerReadyResponse:
        """Whether requests are answered."""
        return pb.ServerReadyResponse(ready=self._pipeline.ready)

    async def model_ready(
        self, request: pb.ModelReadyRequest, *, deadline: float = math.inf
    ) -> pb.ModelReadyResponse:
        """Whether requests for a model are answered; one that does not exist is not ready."""
        try:
            find(self._pipeline, request.name, request.version)
        except (ModelNotFound, NotServing):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def server_metadata(
        self, request: pb.ServerMetadataRequest, *, deadline: float = math.inf
    ) -> pb.ServerMetadataResponse:
        """Name, version and extensions."""
        return pb.ServerMetadataResponse(
            name=SERVER_NAME, version=version("convoy"), extensions=self._extensions
        )

    async def model_metadata(
        self, request: pb.ModelMetadataRequest, *, deadline: float = math.inf
    ) -> pb.ModelMetadataResponse:
        """The tensors of a model."""
        model = self._find(request.name, request.version)
        return metadata(model, self._pipeline.models.entries[model.manifest.name].versions)

    async def model_config(
        self, request: pb.ModelConfigRequest, *, deadline: float = math.inf
    ) -> pb.ModelConfigResponse:
        """The configuration of a model."""
        model = self._find(request.name, request.version)
        return pb.ModelConfigResponse(config=config(model))

    async def model_statistics(
        self, request: pb.ModelStatisticsRequest, *, deadline: float = math.inf
    ) -> pb.ModelStatisticsResponse:
        """What one model has done, or each."""
        if request.name:
            models = [self._find(request.name, request.version)]
        else:
            models = list(self._pipeline.models)
        return pb.ModelStatisticsResponse(model_stats=[statistics(one) for one in models])

    async def repository_index(
        self, request: pb.RepositoryIndexRequest, *, deadline: float = math.inf
    ) -> pb.RepositoryIndexResponse:
        """Every version that serves, or was to serve and does not, with the reason."""
        if request.repository_name:
            raise Unsupported("repository_name: there is one repository, leave it empty")
        models = self._pipeline.models
        states = {(one.manifest.name, one.manifest.version): ("READY", "") for one in models}
        if not request.ready:
            for key, absent in models.absent.items():
                state = "LOADING" if absent.state is State.LOADING else "UNAVAILABLE"
                states.setdefault(key, (state, absent.reason or absent.state))
        index = pb.RepositoryIndexResponse.ModelIndex
        return pb.RepositoryIndexResponse(
            models=[
                index(name=name, version=str(version), state=state, reason=reason)
                for (name, version), (state, reason) in sorted(states.items())
            ]
        )

    def _find(self, name: str, version: str) -> ServedModel:
        with self._pipeline.question(name):
            return find(self._pipeline, name, version)


def find(pipeline: Pipeline, name: str, version: str) -> ServedModel:
    """The model that a message names. Raises: NotServing, ModelNotFound, InvalidRequest."""
    return pipeline.find(name, *number_or_label(version))


def number_or_label(version: str) -> tuple[int, str]:
    """What a version in the protocol is, a number or a label; (0, "") for none.

    Raises: InvalidRequest.
    """
    if not version or (version.isascii() and version[0].isalpha()):
        return 0, version
    digits = version.isascii() and version.isdecimal() and len(version) <= MAX_VERSION_DIGITS
    if not digits or int(version) == 0:
        raise InvalidRequest(
            f"model version {quoted(version)}: must be a positive integer, a label, or empty"
        )
    return int(version), ""
