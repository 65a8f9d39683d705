from __future__ import annotations

import asyncio
import gc
import math
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from convoy.v1 import image_classifier_pb2 as pb
from service.carrier import CallFailed, Carrier
from service.errors import InvalidRequest
from service.gate import Gate
from service.metrics import Metrics
from service.names import SERVICE
from service.rpcs import Rpc


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


class Content:
    """Stands for the images of a request."""


@pytest.mark.usefixtures("no_collector")
def test_what_a_failed_call_held_is_freed_at_once() -> None:
    seen: list[weakref.ref[Content]] = []

    async def call(request: pb.ClassifyRequest, deadline: float) -> Any:
        content = Content()
        seen.append(weakref.ref(content))
        raise InvalidRequest("images: none")

    async def run() -> str:
        rpc = Rpc(SERVICE, "Classify", "unary", pb.ClassifyRequest, call)
        carry = Carrier(Metrics(), Gate(None), max_images=1).unary(rpc)
        try:  # pytest.raises would hold on to the error
            await carry(b"", math.inf, "")
        except CallFailed as failure:
            return str(failure)
        return "no error"

    assert asyncio.run(run()) == "images: none"
    assert [content() for content in seen] == [None]
