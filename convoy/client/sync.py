"""The synchronous client."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from types import TracebackType
from typing import Any, Self, TypeVar, overload

import grpc

from convoy.client.base import (
    DEFAULT_TARGET,
    ClientBase,
    as_many,
    as_name,
    as_top_k,
    as_version,
    checked,
)
from convoy.client.channel import failure_of, methods, open_channel
from convoy.client.chunks import Batching
from convoy.client.errors import ClientError
from convoy.client.inputs import ImageInput, is_one_image, iterate
from convoy.client.retry import Retry
from convoy.client.signals import interrupts_deferred
from convoy.client.steps import END, Emit, Plan, Prepare, Read, Sleep, Start, Step, Wait
from convoy.client.types import Model, Result

T = TypeVar("T")


class ImageClient(ClientBase):
    """Classifies images with a Convoy server.

        with convoy.ImageClient("127.0.0.1:8500") as client:
            print(client.classify("cat.jpg").label)

    An image is a path, the bytes of an image file, a PIL image, or a NumPy array of uint8
    [height, width, 3], [height, width, 1] or [height, width].

    `target` is host:port, or any name that gRPC resolves. `model` defaults to the server's default
    model, `version`, a number or a label such as "stable", to the one that the server holds for
    right; while it tries another one, equal `routing_key`s get the same. `priority` says whose
    images go first where the server has several levels: 1 is the highest, None the server's
    default. `timeout`, in seconds, is for a whole call with all its retries. `credentials` turn on
    TLS. One client may be used by many threads.

    Every method raises ClientError: see convoy.client.errors for the tree.
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
        self._channel = open_channel(target, credentials)
        self._methods = methods(self._channel)

    # A str, bytes and an array are iterable too, which is all that the ignored check says.
    @overload
    def classify(  # type: ignore[overload-overlap]
        self, images: ImageInput, *, top_k: int | None = None
    ) -> Result: ...

    @overload
    def classify(
        self, images: Iterable[ImageInput], *, top_k: int | None = None
    ) -> list[Result]: ...

    def classify(
        self, images: ImageInput | Iterable[ImageInput], *, top_k: int | None = None
    ) -> Result | list[Result]:
        """Classify one image, or a sequence of them with the results in its order.

        A sequence is sent many images to a call, some calls at a time. `top_k` is how many classes
        each result lists, by default 5 (or all, where the model has fewer).

        Raises: ClientError; where one image was refused, the first in order, with its index.
        """
        one = is_one_image(images)
        inputs: Any = [images] if one else images
        plan = self._planner.classify(top_k=as_top_k(top_k), whole=True)
        with closing(self._run(plan, inputs)) as run:
            results = [checked(result) for result in run]
        return results[0] if one else results

    def classify_stream(
        self, images: Iterable[ImageInput], *, top_k: int | None = None
    ) -> Generator[Result | ClientError, None, None]:
        """Classify any number of images in bounded memory: read as they are sent.

        Yields, in order, one value per image: its result, or the InvalidRequest or ServerError
        that it got, which ends nothing. Errors that are not about an image are raised. The timeout
        is for each call. At most `Batching.calls_in_flight` calls are read ahead of the results.
        """
        plan = self._planner.classify(top_k=as_top_k(top_k), whole=False)
        return self._run(plan, as_many(images))

    def list_models(self) -> list[Model]:
        """List the models that are served, by name and version."""
        return list(self._run(self._planner.list_models()))

    def get_model(self, name: str | None = None, *, version: int | str | None = None) -> Model:
        """Describe a model; by default the client's own."""
        name = name and as_name("model", name)
        plan = self._planner.get_model(name, *as_version(version))
        return next(self._run(plan))

    def health(self, service: str = "") -> str:
        """Ask for the status of the server, or of one model or service by its name.

        Returns: "SERVING", "NOT_SERVING" or "UNKNOWN", as grpc.health.v1 names them.
        Raises: NotFound where the server knows no such name.
        """
        return next(self._run(self._planner.health(as_name("service", service))))

    def close(self) -> None:
        """Close the connection; calls in flight end with Unavailable."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, plan: Plan[T], inputs: Iterable[Any] = ()) -> Generator[T, None, None]:
        """Carry out a plan, yielding what it emits."""
        self._check_open()
        return self._steps(plan, iterate(inputs))

    def _steps(self, plan: Plan[T], inputs: Iterator[Any]) -> Generator[T, None, None]:
        calls: set[grpc.Future[Any]] = set()
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
                    outcome = self._do(step, inputs, calls)
        finally:
            for call in calls:
                call.cancel()

    def _do(self, step: Step, inputs: Iterator[Any], calls: set[grpc.Future[Any]]) -> Any:
        match step:
            case Read():
                return next(inputs, END)
            case Prepare():
                return step.run()
            case Start():
                return self._start(step, calls)
            case Wait():
                calls.discard(step.handle)
                try:
                    return step.handle.result()
                except grpc.RpcError as error:
                    return failure_of(error)
            case Sleep():
                return time.sleep(step.seconds)

    def _start(self, step: Start, calls: set[grpc.Future[Any]]) -> grpc.Future[Any]:
        with interrupts_deferred():
            method = self._methods[step.method]
            try:
                call: grpc.Future[Any] = method.future(step.request, timeout=step.timeout)
            except ValueError:  # what gRPC raises where another thread has closed the channel
                self._check_not_closed_meanwhile()
                raise
            calls.add(call)
        return call
