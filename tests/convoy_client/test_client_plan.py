"""Plans carried out by hand: no server, and a clock that only sleeping moves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import convoy
from convoy.client.chunks import CallLimits
from convoy.client.plan import Planner
from convoy.client.retry import Failure
from convoy.client.steps import END, Emit, Plan, Prepare, Read, Sleep, Start, Wait
from convoy.v1 import image_classifier_pb2 as pb

ANSWER = pb.ClassifyResponse(predictions=[pb.Prediction(classes=[pb.ClassScore(label="cat")])])
BUSY = Failure("RESOURCE_EXHAUSTED", "queue full", pushback_ms=400)


class World:
    """Answers every call with the next of `replies`."""

    def __init__(self, inputs: list[Any], replies: list[Any]) -> None:
        self.now = 100.0
        self.timeouts: list[float] = []
        self.sleeps: list[float] = []
        self.emitted: list[Any] = []
        self._inputs, self._replies = iter(inputs), iter(replies)
        self.planner = Planner(target="t", model="", version=0, timeout=1.0, clock=lambda: self.now)

    def run(self, plan: Plan[Any]) -> list[Any]:
        step = next(plan)
        try:
            while True:
                step = plan.send(self.do(step))
        except StopIteration:
            return self.emitted

    def do(self, step: Any) -> Any:
        match step:
            case Read():
                return next(self._inputs, END)
            case Prepare():
                return step.run()
            case Start():
                return self.timeouts.append(step.timeout)
            case Wait():
                return next(self._replies)
            case Sleep():
                self.sleeps.append(step.seconds)
                self.now += step.seconds
            case Emit():
                self.emitted.append(step.value)


def classify(world: World, *, whole: bool) -> list[Any]:
    return world.run(world.planner.classify(top_k=0, whole=whole))


def test_retries_share_the_timeout():
    world = World([b"1"], [BUSY, ANSWER])
    (result,) = classify(world, whole=True)
    assert result.label == "cat"
    assert 0.4 <= world.sleeps[0] <= 0.6
    assert world.timeouts == [1.0, pytest.approx(1.0 - world.sleeps[0])]


def test_no_retry_starts_that_the_timeout_forbids():
    world = World([b"1"], [BUSY] * 9)
    with pytest.raises(convoy.Overloaded, match="queue full"):
        classify(world, whole=True)
    assert sum(world.sleeps) < 1.0


def test_call_of_a_stream_gets_its_timeout_anew_when_its_turn_comes():
    """It failed while the caller was busy with earlier results, and is retried all the same."""
    world = World([b"1", b"2"], [ANSWER, BUSY, ANSWER])
    world.planner.limits = CallLimits(convoy.Batching(images_per_call=1))
    plan = world.planner.classify(top_k=0, whole=False)
    step = next(plan)
    while not isinstance(step, Emit):
        step = plan.send(world.do(step))
    world.now += 60.0
    assert [one.label for one in world.run(plan)] == ["cat"]
    assert len(world.timeouts) == 3


def test_error_that_is_not_about_an_image_ends_the_plan():
    world = World([b"1", b"2"], [Failure("NOT_FOUND", "no such model")])
    with pytest.raises(convoy.NotFound, match="no such model"):
        classify(world, whole=False)


def test_slow_inputs_of_a_stream_take_nothing_from_the_timeout_of_a_call():
    described = pb.Model(height=1, width=1, channels=3)
    world = World([np.zeros((1, 1, 3), np.uint8)], [described, ANSWER])
    plan = world.planner.classify(top_k=0, whole=False)
    assert isinstance(next(plan), Read)
    world.now += 60.0
    step = plan.send(world.do(Read()))
    while not isinstance(step, Emit):
        step = plan.send(world.do(step))
    assert step.value.label == "cat"
