"""The asyncio client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypeVar, overload

import grpc
import grpc.aio

from convoy.client.base import (
    DEFAULT_TARGET,
    ClientBase,
    as_many,
    as_name,
    as_top_k,
    as_version,
    checked,
)
from convoy.client.channel import Methods, channel_options, failure_of, methods
from convoy.client.chunks import Batching
from convoy.client.coalesce import Coalescer
from convoy.client.errors import ClientError
from convoy.client.inputs import ImageInput, is_one_image, iterate
from convoy.client.retry import Failure, Retry
from convoy.client.steps import END, Emit, Plan, Prepare, Read, Sleep, Start, Step, Wait
from convoy.client.types import Model, Result

T = TypeVar("T")


class AsyncImageClient(ClientBase):
    """`ImageClient` for asyncio: the same arguments, results and errors.

        async with convoy.AsyncImageClient("127.0.0.1:8500") as client:
            print((await client.classify("cat.jpg")).label)

    Sequences of images may be asynchronous too. Files are read in threads, so that a slow disk
    does not hold up the event loop. One client belongs to one event loop, and connects on first
    use; any number of tasks may share it. Images that they classify one at a time, at the same
    time, share calls, unless `batching` says otherwise.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        model: str | None = None,
        version: int | str | None = None,
        routing_key: str = "",
        priority: int | None = None,
        timeout: float = 30.0,
        retry: Retry | None = None,
        batching: Batching | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        super().__init__(
            target,
            model=model,
            version=version,
            routing_key=routing_key,
            priority=priority,
            timeout=timeout,
            retry=retry,
            batching=batching,
        )
        self._credentials = credentials
        self._coalesce = (batching or Batching()).coalesce
        self._coalescer = Coalescer(self._planner, self._run_on)
        self._channel: grpc.aio.Channel | None = None
        self._methods: Methods = {}

    # A str, bytes and an array are iterable too, which is all that the ignored check says.
    @overload
    async def classify(  # type: ignore[overload-overlap]
        self, images: ImageInput, *, top_k: int | None = None
    ) -> Result: ...

    @overload
    async def classify(
        self,
        images: Iterable[ImageInput] | AsyncIterable[ImageInput],
        *,
        top_k: int | None = None,
    ) -> list[Result]: ...

    async def classify(
        self,
        images: ImageInput | Iterable[ImageInput] | AsyncIterable[ImageInput],
        *,
        top_k: int | None = None,
    ) -> Result | list[Result]:
        """Classify one image, or a sequence of them: see `ImageClient.classify`."""
        one = is_one_image(images)
        if one and self._coalesce:
            self._check_open()
            return await self._coalescer.classify(images, as_top_k(top_k))
        inputs: Any = [images] if one else images
        plan = self._planner.classify(top_k=as_top_k(top_k), whole=True)
        async with aclosing(self._run(plan, inputs)) as run:
            results = [checked(result) async for result in run]
        return results[0] if one else results

    def classify_stream(
        self,
        images: Iterable[ImageInput] | AsyncIterable[ImageInput],
        *,
        top_k: int | None = None,
    ) -> AsyncGenerator[Result | ClientError, None]:
        """Classify any number of images in bounded memory: see `ImageClient.classify_stream`."""
        plan = self._planner.classify(top_k=as_top_k(top_k), whole=False)
        return self._run(plan, as_many(images))

    async def list_models(self) -> list[Model]:
        """List the models that are served, by name and version."""
        return [model async for model in self._run(self._planner.list_models())]

    async def get_model(
        self, name: str | None = None, *, version: int | str | None = None
    ) -> Model:
        """Describe a model; by default the client's own."""
        name = name and as_name("model", name)
        return await self._one(self._planner.get_model(name, *as_version(version)))

    async def health(self, service: str = "") -> str:
        """Ask for the status of the server, a model or a service: see `ImageClient.health`."""
        return await self._one(self._planner.health(as_name("service", service)))

    async def close(self) -> None:
        """Close the connection; calls in flight end with Unavailable."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _connect(self) -> None:
        # Not in __init__: an asyncio channel belongs to the loop that runs when it is made.
        self._check_open()
        if self._channel is None:
            options = channel_options(self.target)
            self._channel = (
                grpc.aio.insecure_channel(self.target, options)
                if self._credentials is None
                else grpc.aio.secure_channel(self.target, self._credentials, options)
            )
            self._methods = methods(self._channel)

    async def _one(self, plan: Plan[T]) -> T:
        async with aclosing(self._run(plan)) as run:
            return await anext(run)

    def _run_on(self, plan: Plan[T]) -> AsyncGenerator[T, None]:
        """Carry out a plan of a call that had begun."""
        self._check_not_closed_meanwhile()
        return self._run(plan)

    async def _run(self, plan: Plan[T], inputs: Any = ()) -> AsyncGenerator[T, None]:
        """Carry out a plan, yielding what it emits."""
        self._connect()
        source = aiter(inputs) if isinstance(inputs, AsyncIterable) else iterate(inputs)
        calls: set[Any] = set()
        outcome: Any = None
        try:
            while True:
                try:
                    step = plan.send(outcome)
                except StopIteration:
                    return
                if isinstance(step, Emit):
                    yield step.value
                    outcome = None
                else:
                    outcome = await self._do(step, source, calls)
        finally:
            for call in calls:
                call.cancel()

    async def _do(self, step: Step, source: Any, calls: set[Any]) -> Any:
        match step:
            case Read():
                if isinstance(source, AsyncIterator):
                    return await anext(source, END)
                return next(source, END)
            case Prepare():
                return await asyncio.to_thread(step.run) if step.blocks else step.run()
            case Start():
                self._check_not_closed_meanwhile()
                call = self._methods[step.method](step.request, timeout=step.timeout)
                calls.add(call)
                return call
            case Wait():
                calls.discard(step.handle)
                try:
                    return await step.handle
                except grpc.RpcError as error:
                    return failure_of(error)
                except asyncio.CancelledError:
                    # Closing the channel looks like a cancelled task, which this one is not.
                    if self._closed and not _being_cancelled():
                        return Failure("CANCELLED", "the client was closed")
                    raise
            case Sleep():
                return await asyncio.sleep(step.seconds)


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
