"""RepositoryModelLoad and RepositoryModelUnload; the carrier has checked who calls."""

from __future__ import annotations

import math

from service.control import ModelControl
from service.errors import Unsupported
from service.oip import grpc_service_pb2 as pb


class Control:
    """The same as convoy.v1.ModelControl's Load and Unload."""

    def __init__(self, control: ModelControl) -> None:
        self._control = control

    async def repository_model_load(
        self, request: pb.RepositoryModelLoadRequest, *, deadline: float = math.inf
    ) -> pb.RepositoryModelLoadResponse:
        """Serve a model as its folder is now. Raises: ModelNotFound, LoadFailed, Unsupported."""
        _check_repository(request.repository_name)
        if request.parameters:
            names = ", ".join(sorted(request.parameters)[:4])
            raise Unsupported(
                f"parameters: {names[:64]}: a model is loaded as the server's folder has it"
            )
        await self._control.keeper.load(request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def repository_model_unload(
        self, request: pb.RepositoryModelUnloadRequest, *, deadline: float = math.inf
    ) -> pb.RepositoryModelUnloadResponse:
        """Serve a model no more; nothing depends on it. Raises: ModelNotFound, Unsupported."""
        _check_repository(request.repository_name)
        await self._control.keeper.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()


def _check_repository(name: str) -> None:
    if name:
        raise Unsupported("repository_name: there is one repository, leave it empty")
