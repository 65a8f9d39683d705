"""The RPC methods of convoy.v1.ModelControl: what operators tell a running service."""

from __future__ import annotations

import math

from convoy.v1 import model_control_pb2 as pb
from service.errors import NotServing
from service.keeper import Keeper


class ModelControl:
    """Load, Unload, Promote and Rollback; the carrier has checked who calls."""

    def __init__(self) -> None:
        self._keeper: Keeper | None = None

    @property
    def keeper(self) -> Keeper:
        """What keeps the models. Raises: NotServing before `serve`."""
        if self._keeper is None:
            raise NotServing("the service is starting")
        return self._keeper

    def serve(self, keeper: Keeper) -> None:
        """Begin to do as told."""
        self._keeper = keeper

    async def load(self, request: pb.LoadRequest, *, deadline: float = math.inf) -> pb.ModelState:
        """Serve a model as its folder is now. Raises: ModelNotFound, LoadFailed."""
        await self.keeper.load(request.model)
        return self._state(request.model)

    async def unload(
        self, request: pb.UnloadRequest, *, deadline: float = math.inf
    ) -> pb.ModelState:
        """Serve a model no more. Raises: ModelNotFound."""
        await self.keeper.unload(request.model)
        return self._state(request.model)

    async def promote(
        self, request: pb.PromoteRequest, *, deadline: float = math.inf
    ) -> pb.ModelState:
        """Make a version the one that answers. Raises: ModelNotFound, LoadFailed."""
        await self.keeper.promote(request.model, request.version)
        return self._state(request.model)

    async def rollback(
        self, request: pb.RollbackRequest, *, deadline: float = math.inf
    ) -> pb.ModelState:
        """End a trial, or return to the version before. Raises: ModelNotFound, LoadFailed."""
        await self.keeper.roll_back(request.model)
        return self._state(request.model)

    def _state(self, name: str) -> pb.ModelState:
        entry = self.keeper.repository.entries.get(name)
        if entry is None:
            return pb.ModelState(model=name)
        return pb.ModelState(model=name, live_version=entry.live, versions=sorted(entry.versions))
