"""What every front does for a streamed call; that of a unary one is `service/carrier.py`.

A module of its own, because mypyc compiles no asynchronous generators.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from time import monotonic

from google.protobuf.message import Message

from service.carrier import CallFailed, Carrier, failed, gone
from service.deadlines import why_gone
from service.rpcs import Rpc, Sized
from service.status import Code

Stream = Callable[[AsyncIterator[bytes], float], AsyncGenerator[bytes, None]]


def carried(carrier: Carrier, rpc: Rpc) -> Stream:
    """Many requests, or one, and many responses, between bytes and a method.

    What a front is given takes messages as bytes and the deadline, of the monotonic clock. It
    raises CallFailed, and is to be cancelled as a unary call is.
    """
    counts = carrier.counts(rpc)

    async def carry(messages: AsyncIterator[bytes], deadline: float) -> AsyncGenerator[bytes, None]:
        start = monotonic()
        counts.started += 1
        code = Code.OK
        failure: CallFailed | None = None
        accepted: deque[int] = deque()
        try:
            requests = _requests(carrier, rpc, messages, accepted)
            async with aclosing(rpc.call(requests, deadline=deadline)) as responses:
                async for response in responses:
                    yield response.SerializeToString()
                    if accepted:
                        carrier.answered(accepted.popleft())
            # grpcio ends the requests of a caller that has left a moment before it cancels.
            if why_gone(deadline) == "deadline":
                code = Code.DEADLINE_EXCEEDED
        except (asyncio.CancelledError, GeneratorExit):
            code = gone(deadline)
            raise
        except Exception as error:
            failure = failed(error)
            code = failure.code
            raise failure from None
        finally:
            failure = None  # else it and this frame would hold each other
            counts.finish(code.name, monotonic() - start)
            carrier.answered(sum(accepted))

    return carry


async def _requests(
    carrier: Carrier, rpc: Rpc, messages: AsyncIterator[bytes], accepted: deque[int]
) -> AsyncIterator[Message | Sized]:
    parse = partial(carrier.parse, rpc)
    async for data in messages:
        accepted.append(carrier.arrive())
        request = carrier.read(parse, data)
        yield request if rpc.sized else request[0]
