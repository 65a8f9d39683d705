from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator
from time import monotonic
from typing import Any

import pytest

from convoy.v1 import image_classifier_pb2 as pb
from service.carrier import Carrier
from service.deadlines import TOLERANCE_SECONDS, why_gone
from service.gate import Gate
from service.metrics import Metrics
from service.names import SERVICE
from service.rpcs import Rpc
from service.stream_calls import carried

HANDLED = "grpc_server_handled_total"


@pytest.mark.parametrize(
    ("left", "why"),
    [
        (-1.0, "deadline"),
        (TOLERANCE_SECONDS / 2, "deadline"),
        (60.0, "cancelled"),
        (math.inf, "cancelled"),
    ],
)
def test_why_a_caller_left(left: float, why: str) -> None:
    assert why_gone(monotonic() + left) == why


@pytest.mark.parametrize(("left", "code"), [(0.0, "DEADLINE_EXCEEDED"), (60.0, "OK")])
def test_a_stream_whose_requests_end_with_its_deadline_is_no_success(
    left: float, code: str
) -> None:
    async def call(requests: AsyncIterator[Any], deadline: float) -> AsyncGenerator[Any, None]:
        async for _ in requests:
            yield pb.ClassifyStreamResponse()

    async def messages() -> AsyncIterator[bytes]:
        yield b""

    async def run() -> list[bytes]:
        rpc = Rpc(SERVICE, "ClassifyStream", "bidi_stream", pb.ClassifyRequest, call)
        carry = carried(Carrier(metrics, Gate(None), max_images=1), rpc)
        return [response async for response in carry(messages(), monotonic() + left)]

    metrics = Metrics()
    assert asyncio.run(run()) == [b""]
    handled = (sample for family in metrics.collect() for sample in family.samples)
    assert [
        sample.labels["grpc_code"] for sample in handled if sample.name == HANDLED and sample.value
    ] == [code]
