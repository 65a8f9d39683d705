"""The methods of GRPCInferenceService that this server does not have, and why."""

from __future__ import annotations

import math
from typing import Any, NoReturn

from service.errors import Unsupported
from service.oip import grpc_service_pb2 as pb

_NO_CUDA = "CUDA shared memory is not offered; send tensors in the message"


class Missing:
    """Each method says what to do instead."""

    async def cuda_shared_memory_status(
        self, request: Any, *, deadline: float = math.inf
    ) -> NoReturn:
        """Raises: Unsupported."""
        raise Unsupported(_NO_CUDA)

    cuda_shared_memory_register = cuda_shared_memory_status

    async def cuda_shared_memory_unregister(
        self, request: Any, *, deadline: float = math.inf
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        """What was never registered is forgotten already; load generators do this at their end."""
        return pb.CudaSharedMemoryUnregisterResponse()
