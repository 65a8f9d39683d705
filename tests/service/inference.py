"""Bare clients of GRPCInferenceService, and the requests that its tests send."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from service.oip import grpc_service_pb2_grpc as rpc
from tests.servers import PATIENCE, Running


@contextmanager
def inference_stub(server: Running) -> Iterator[rpc.GRPCInferenceServiceStub]:
    """A bare client of the generated code."""
    with grpc.insecure_channel(server.grpc_address) as channel:
        yield rpc.GRPCInferenceServiceStub(channel)


def refused(method: Any, request: Any) -> tuple[str, str]:
    """Status code and text that a request gets."""
    with pytest.raises(grpc.RpcError) as failure:
        method(request, timeout=PATIENCE)
    return failure.value.code().name, failure.value.details()
