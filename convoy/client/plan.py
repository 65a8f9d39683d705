"""What a client does, step by step, without doing any of it.

A plan is a generator that yields steps and is sent their outcomes. The synchronous and the asyncio
client differ only in how they carry the steps out, and a test can carry them out with no server
and no clock.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from convoy.client.chunks import (
    Batching,
    CallLimits,
    Chunk,
    Slot,
    is_about_call,
    is_same,
    refused_image,
)
from convoy.client.errors import ClientError, InvalidRequest, ServerError, Timeout
from convoy.client.inputs import Shape, is_array, source_of
from convoy.client.retry import Failure, Retry, error_of, no_answer
from convoy.client.steps import END, Emit, Plan, Prepare, Read, Sleep, Start, Steps, Wait
from convoy.client.types import Model, Result, parse_model, parse_response
from convoy.v1 import image_classifier_pb2 as pb

_HEALTH = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
PROBES = 2
"""Images of a failed call that are sent alone first, where the server names none: does each of them
fail in the same way, so would the others."""


@dataclass(slots=True)
class _Call:
    """One call, through all its attempts."""

    method: str
    request: Any
    deadline: float
    attempt: int = 0
    handle: Any = None


@dataclass(slots=True, kw_only=True)
class Planner:
    """Makes the plans of one client."""

    target: str
    model: str
    version: int
    timeout: float
    label: str = ""
    routing_key: str = ""
    priority: int = 0
    retry: Retry = field(default_factory=Retry)
    limits: CallLimits = field(default_factory=lambda: CallLimits(Batching()))
    clock: Callable[[], float] = time.monotonic
    _shape: Shape | None = None
    """The model's input, once it was asked for."""

    def health(self, service: str) -> Plan[str]:
        """Ask grpc.health.v1; emits the status's name."""
        status = yield from self._answer(self._call("Check", service))
        yield Emit(_HEALTH[status] if status < len(_HEALTH) else "UNKNOWN")

    def list_models(self) -> Plan[Model]:
        """Emit every model that is served."""
        response = yield from self._answer(self._call("ListModels", pb.ListModelsRequest()))
        for message in response.models:
            yield Emit(parse_model(message))

    def get_model(self, name: str | None, version: int, label: str) -> Plan[Model]:
        """Emit one model; None is the client's own, 0 and "" the version that answers."""
        if name is None:
            name = self.model
            if not (version or label):
                version, label = self.version, self.label
        request = pb.GetModelRequest(model=name, version=version, version_label=label)
        message = yield from self._answer(self._call("GetModel", request))
        yield Emit(parse_model(message))

    def classify(self, *, top_k: int, whole: bool) -> Plan[Result | ClientError]:
        """Emit for each input, in order, its result or the error of the image that was refused.

        `whole`: the timeout is for the whole plan. Otherwise it is for each call, and one that
        failed while the caller was busy with earlier results gets it anew.
        """
        if not whole:
            return self._classify(top_k, self.deadline)
        deadline = self.deadline()
        return self._classify(top_k, lambda: deadline)

    def ready(self, image: Any) -> Slot | None:
        """One image that `answer` can send as it is; None where `read` has to see to it first."""
        step = Prepare(image, self._shape)
        return None if step.blocks else Slot(0, source_of(image, 0), step.run())

    def read(self, image: Any, deadline: float) -> Plan[Slot]:
        """Emit one image, read and encoded, that `answer` sends."""
        yield Emit((yield from self._slot(image, 0, deadline)))

    def answer(self, chunk: Chunk, top_k: int, deadline: float) -> Plan[Result | ClientError]:
        """Emit for each image of the chunk its result or its error."""
        yield from self._send(chunk, top_k, deadline)
        yield from self._finish(chunk, top_k, deadline)

    def _classify(self, top_k: int, deadline: Callable[[], float]) -> Plan[Result | ClientError]:
        window: deque[Chunk] = deque()
        read, more = 0, True
        while more or window:
            while more and len(window) < self.limits.calls_in_flight:
                chunk, more = yield from self._read_chunk(read, top_k, deadline)
                read += len(chunk.slots)
                yield from self._send(chunk, top_k, deadline())
                window.append(chunk)
            yield from self._finish(window.popleft(), top_k, deadline())

    def _read_chunk(
        self, first: int, top_k: int, deadline: Callable[[], float]
    ) -> Steps[tuple[Chunk, bool]]:
        """Read the inputs of one call. Returns: the chunk, and whether there may be more."""
        chunk = Chunk()
        for index in count(first):
            value = yield Read()
            if value is END:
                return chunk, False
            chunk.add((yield from self._slot(value, index, deadline())))
            if self.limits.reached(chunk, top_k):
                break
        return chunk, True

    def _slot(self, value: Any, index: int, deadline: float) -> Steps[Slot]:
        shape = (yield from self._input_shape(deadline)) if is_array(value) else None
        return Slot(index, source_of(value, index), (yield Prepare(value, shape)))

    def _send(self, chunk: Chunk, top_k: int, deadline: float) -> Steps[None]:
        slots = chunk.sendable()
        if slots:
            chunk.call = self._classify_call(slots, top_k, deadline)
            yield from self._start(chunk.call)

    def _finish(self, chunk: Chunk, top_k: int, deadline: float) -> Plan[Result | ClientError]:
        """Emit what became of a chunk's images."""
        answers: list[Result | ClientError] = []
        if chunk.call is not None:
            chunk.call.deadline = deadline
            answers = yield from self._outcomes(chunk.call, chunk.sendable(), top_k)
        answered = iter(answers)
        for slot in chunk.slots:
            if isinstance(slot.image, InvalidRequest):
                yield Emit(slot.name(slot.image))
            else:
                yield Emit(next(answered))

    def _outcomes(
        self, call: _Call, slots: list[Slot], top_k: int
    ) -> Steps[list[Result | ClientError]]:
        """Settle a call; where it is refused, only the images at fault fail."""
        try:
            return [*(yield from self._results(call, len(slots)))]
        except (InvalidRequest, ServerError) as error:
            refusal = error
        bad = refused_image(refusal, len(slots))
        if bad is None:
            return (yield from self._one_by_one(slots, refusal, top_k, call.deadline))
        others = slots[:bad] + slots[bad + 1 :]
        answers = yield from self._together(others, top_k, call.deadline)
        return [*answers[:bad], self._blame(slots[bad], refusal), *answers[bad:]]

    def _together(
        self, slots: list[Slot], top_k: int, deadline: float
    ) -> Steps[list[Result | ClientError]]:
        """Send what is left of a refused call again; refused once more, one by one."""
        if not slots:
            return []
        call = self._classify_call(slots, top_k, deadline)
        yield from self._start(call)
        try:
            return [*(yield from self._results(call, len(slots)))]
        except (InvalidRequest, ServerError) as refusal:
            return (yield from self._one_by_one(slots, refusal, top_k, deadline))

    def _one_by_one(
        self, slots: list[Slot], refusal: ClientError, top_k: int, deadline: float
    ) -> Steps[list[Result | ClientError]]:
        """Send the images of a refused call again, each alone, unless that is in vain.

        Raises: InvalidRequest where the call is wrong whatever its images are.
        """
        first = slots[:PROBES]
        answers: list[Result | ClientError]
        if len(slots) == 1:
            answers = [self._blame(slots[0], refusal)]
        else:
            answers = yield from self._each(first, top_k, deadline)
        if all(is_same(one, refusal) for one in answers):
            if is_about_call(refusal):
                raise refusal
            return answers + [self._blame(slot, refusal) for slot in slots[len(first) :]]
        answers += yield from self._each(slots[len(first) :], top_k, deadline)
        if isinstance(refusal, InvalidRequest) and all(isinstance(one, Result) for one in answers):
            self.limits.refused(len(slots))
        return answers

    def _each(
        self, slots: list[Slot], top_k: int, deadline: float
    ) -> Steps[list[Result | ClientError]]:
        """Send each image in a call of its own."""
        calls = [self._classify_call([slot], top_k, deadline) for slot in slots]
        for call in calls:
            yield from self._start(call)
        answers: list[Result | ClientError] = []
        for slot, call in zip(slots, calls, strict=True):
            try:
                answers += yield from self._results(call, 1)
            except (InvalidRequest, ServerError) as error:
                answers.append(self._blame(slot, error))
        return answers

    def _blame(self, slot: Slot, error: ClientError) -> ClientError:
        if isinstance(slot.image, pb.Image) and slot.image.HasField("pixels"):
            self._shape = None  # The model may have been replaced by one of another size.
        return slot.name(error)

    def _input_shape(self, deadline: float) -> Steps[Shape]:
        if self._shape is None:
            request = pb.GetModelRequest(
                model=self.model, version=self.version, version_label=self.label
            )
            message = yield from self._answer(_Call("GetModel", request, deadline))
            self._shape = parse_model(message).input_shape
        return self._shape

    def _classify_call(self, slots: list[Slot], top_k: int, deadline: float) -> _Call:
        images: list[Any] = [slot.image for slot in slots]
        request = pb.ClassifyRequest(
            model=self.model,
            version=self.version,
            version_label=self.label,
            routing_key=self.routing_key,
            images=images,
            top_k=top_k,
            priority=self.priority,
        )
        return _Call("Classify", request, deadline)

    def _call(self, method: str, request: Any) -> _Call:
        return _Call(method, request, self.deadline())

    def _results(self, call: _Call, count: int) -> Steps[list[Result]]:
        return parse_response((yield from self._settle(call)), count)

    def _answer(self, call: _Call) -> Steps[Any]:
        yield from self._start(call)
        return (yield from self._settle(call))

    def _start(self, call: _Call) -> Steps[None]:
        remaining = call.deadline - self.clock()
        if remaining <= 0:
            raise self.timed_out()
        call.attempt += 1
        call.handle = yield Start(call.method, call.request, remaining)

    def _settle(self, call: _Call) -> Steps[Any]:
        """Wait for the response, sending the call again where that is safe and may help."""
        while True:
            outcome = yield Wait(call.handle)
            if not isinstance(outcome, Failure):
                return outcome
            delay = self.retry.delay(outcome, call.attempt)
            if delay is None or self.clock() + delay >= call.deadline:
                raise error_of(outcome, self.target, self.timeout)
            yield Sleep(delay)
            if self.clock() >= call.deadline:
                raise error_of(outcome, self.target, self.timeout)
            yield from self._start(call)

    def deadline(self) -> float:
        """When a call that begins now must be done, by the clock."""
        return self.clock() + self.timeout

    def timed_out(self) -> Timeout:
        """The error of a call that was not done by then."""
        return no_answer(self.target, self.timeout)
