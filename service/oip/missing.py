"""The methods of GRPCInferenceService that this server does not have, and why."""

from __future__ import annotations

import math
from typing import Any, NoReturn

from service.errors import Unsupported

_NO_CUDA = "CUDA shared memory is not offered; send tensors in the message"


class Missing:
    """Each method says what to do instead."""

    async def cuda_shared_memory_status(
        self, request: Any, *, deadline: float = math.inf
    ) -> NoReturn:
        """Raises: Unsupported."""
        raise Unsupported(_NO_CUDA)

    cuda_shared_memory_register = cuda_shared_memory_status
    cuda_shared_memory_unregister = cuda_shared_memory_status
