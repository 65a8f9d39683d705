"""The methods of GRPCInferenceService that manage system shared memory."""

from __future__ import annotations

import math

from service.oip import grpc_service_pb2 as pb
from service.oip.regions import Regions


class SharedMemory:
    """Status, Register and Unregister."""

    def __init__(self, regions: Regions) -> None:
        self._regions = regions

    async def system_shared_memory_status(
        self, request: pb.SystemSharedMemoryStatusRequest, *, deadline: float = math.inf
    ) -> pb.SystemSharedMemoryStatusResponse:
        """One region, or all. Raises: RegionNotFound."""
        regions = [self._regions[request.name]] if request.name else list(self._regions)
        return pb.SystemSharedMemoryStatusResponse(
            regions={
                one.name: pb.SystemSharedMemoryStatusResponse.RegionStatus(
                    name=one.name, key=one.key, offset=one.offset, byte_size=one.byte_size
                )
                for one in regions
            }
        )

    async def system_shared_memory_register(
        self, request: pb.SystemSharedMemoryRegisterRequest, *, deadline: float = math.inf
    ) -> pb.SystemSharedMemoryRegisterResponse:
        """Make a region known. Raises: Unsupported, RegionExists, InvalidRequest."""
        self._regions.register(request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    async def system_shared_memory_unregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest, *, deadline: float = math.inf
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        """Forget one region, or all; one that does not exist is forgotten already."""
        if request.name:
            self._regions.unregister(request.name)
        else:
            self._regions.clear()
        return pb.SystemSharedMemoryUnregisterResponse()
