"""Carries out concurrent calls of one image each as few calls of many, for the asyncio client."""

from __future__ import annotations

import asyncio
import copy
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from convoy.client.base import checked
from convoy.client.chunks import Slot
from convoy.client.errors import ClientError, InvalidRequest, Timeout
from convoy.client.joining import Joiner, Joint
from convoy.client.plan import Planner
from convoy.client.steps import Plan
from convoy.client.types import Result


class Coalescer:
    """Answers callers of one image each; whatever becomes of one is nothing to the others.

    A caller whose image is bad gets its own error, and one that is cancelled or out of time just
    leaves: the call goes on for the others, and ends with the last of them.
    """

    def __init__(
        self, planner: Planner, run: Callable[[Plan[Any]], AsyncGenerator[Any, None]]
    ) -> None:
        self._planner = planner
        self._run = run
        self._joiner = Joiner(planner.limits, planner.clock)
        self._in_flight: set[asyncio.Task[None]] = set()
        self._flushing = False
        self._timer: asyncio.TimerHandle | None = None

    async def classify(self, image: Any, top_k: int) -> Result:
        """Classify one image. Raises: ClientError."""
        deadline = self._planner.deadline()
        slot = self._planner.ready(image) or await self._read(image, deadline)
        if isinstance(slot.image, InvalidRequest):
            raise slot.name(slot.image)
        return checked(await self._answer(slot, top_k, deadline))

    async def _read(self, image: Any, deadline: float) -> Slot:
        try:
            async with (
                asyncio.timeout(self._planner.timeout),
                aclosing(self._run(self._planner.read(image, deadline))) as run,
            ):
                slot: Slot = await anext(run)
                return slot
        except TimeoutError:
            raise self._planner.timed_out() from None

    async def _answer(self, slot: Slot, top_k: int, deadline: float) -> Result | ClientError:
        answer = asyncio.get_running_loop().create_future()
        joint = self._joiner.add(slot, answer, top_k=top_k, deadline=deadline)
        self._expire_at(deadline, joint)
        self._flush_soon()
        try:
            outcome: Result | ClientError = await answer
        except (asyncio.CancelledError, Timeout):
            if joint.task is not None and all(one.done() for one in joint.answers):
                joint.task.cancel()
            raise
        return outcome

    def _expire_at(self, deadline: float, joint: Joint) -> None:
        # One timer for all who share a call: one for each would be a sixth of what an image costs.
        if deadline < joint.due:
            if joint.timer is not None:
                joint.timer.cancel()
            wait = deadline - self._planner.clock()
            joint.timer = asyncio.get_running_loop().call_later(wait, self._expire, joint)
            joint.due = deadline

    def _expire(self, joint: Joint) -> None:
        joint.due, now = math.inf, self._planner.clock()
        for answer, deadline in zip(joint.answers, joint.deadlines, strict=True):
            if not answer.done():
                if deadline <= now:
                    answer.set_exception(self._planner.timed_out())
                else:
                    self._expire_at(deadline, joint)

    def _flush_soon(self) -> None:
        # Not at once: callers that wake in the same turn of the loop go together.
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Send what may go."""
        self._flushing = False
        while (joint := self._joiner.next(len(self._in_flight))) is not None:
            joint.leave_the_departed()
            if joint.slots:
                self._send(joint)
            else:
                joint.timer.cancel()
        wait = self._joiner.wait(len(self._in_flight))
        if wait is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(wait, self._flush_late)

    def _flush_late(self) -> None:
        self._timer = None
        self._flush()

    def _send(self, joint: Joint) -> None:
        joint.task = asyncio.get_running_loop().create_task(self._carry_out(joint))
        self._in_flight.add(joint.task)
        joint.task.add_done_callback(lambda _: self._ended(joint))

    def _ended(self, joint: Joint) -> None:
        self._in_flight.discard(joint.task)
        joint.timer.cancel()
        for answer in joint.answers:
            if not answer.done():  # cancelled from outside, or a defect of ours
                if joint.task.cancelled():
                    answer.cancel()
                else:
                    answer.set_exception(joint.task.exception())
        self._flush_soon()

    async def _carry_out(self, joint: Joint) -> None:
        """Make the call, and give every caller that still waits its outcome."""
        plan = self._planner.answer(joint, joint.top_k, joint.deadline)
        try:
            async with aclosing(self._run(plan)) as run:
                outcomes = [outcome async for outcome in run]
        except ClientError as error:
            # One of its own for each: callers may add to what they catch.
            outcomes = [copy.copy(error) for _ in joint.answers]
        for answer, outcome in zip(joint.answers, outcomes, strict=True):
            if not answer.done():
                answer.set_result(outcome)
