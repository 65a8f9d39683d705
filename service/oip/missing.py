"""The methods of GRPCInferenceService that this server does not have, and why."""

from __future__ import annotations

import math
from typing import Any, NoReturn

from service.errors import Unsupported

_NO_CONTROL = (
    "models are loaded when the server starts, the newest version of each; "
    "change the folder and start it again"
)
_NO_CUDA = "CUDA shared memory is not offered; send tensors in the message"


class Missing:
    """Each method says what to do instead."""

    async def repository_model_load(self, request: Any, *, deadline: float = math.inf) -> NoReturn:
        """Raises: Unsupported."""
        raise Unsupported(_NO_CONTROL)

    repository_model_unload = repository_model_load

    async def cuda_shared_memory_status(
        self, request: Any, *, deadline: float = math.inf
    ) -> NoReturn:
        """Raises: Unsupported."""
        raise Unsupported(_NO_CUDA)

    cuda_shared_memory_register = cuda_shared_memory_status
    cuda_shared_memory_unregister = cuda_shared_memory_status
