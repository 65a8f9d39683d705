from __future__ import annotations

import asyncio
import math
import weakref
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from convoy.v1 import image_classifier_pb2 as pb
from service.carrier import CallFailed, Carrier
from service.errors import InvalidRequest
from service.gate import Gate
from service.metrics import Metrics
from service.names import SERVICE
from service.rpcs import Kind, Rpc
from service.stream_calls import carried


class Content:
    """Stands for the images of a request."""


@pytest.mark.parametrize("waits", [False, True])  # a future and its waiter may hold each other
@pytest.mark.parametrize("kind", ["unary", "bidi_stream"])
@pytest.mark.usefixtures("no_collector")
def test_what_a_failed_call_held_is_freed_at_once(kind: Kind, waits: bool) -> None:
    seen: list[weakref.ref[Content]] = []

    async def fail() -> None:
        content = Content()
        seen.append(weakref.ref(content))
        if waits:
            result = asyncio.get_running_loop().create_future()
            result.set_exception(InvalidRequest("images: none"))
            await result
        raise InvalidRequest("images: none")

    async def answer(request: pb.ClassifyRequest, deadline: float) -> Any:
        await fail()

    async def stream(requests: AsyncIterator[Any], deadline: float) -> AsyncGenerator[Any, None]:
        async for _ in requests:
            await fail()
            yield

    async def messages() -> AsyncIterator[bytes]:
        yield b""

    async def run() -> str:
        carrier = Carrier(Metrics(), Gate(None), max_images=1)
        call = answer if kind == "unary" else stream
        rpc = Rpc(SERVICE, "Classify", kind, pb.ClassifyRequest, call)
        try:  # pytest.raises would hold on to the error
            if kind == "unary":
                await carrier.unary(rpc)(b"", math.inf, "")
            else:
                await anext(carried(carrier, rpc)(messages(), math.inf))
        except CallFailed as failure:
            return str(failure)
        return "no error"

    assert asyncio.run(run()) == "images: none"
    assert [content() for content in seen] == [None]
