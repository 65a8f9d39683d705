"""How a model is opened: its load gets in nobody's way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import structlog

from service.devices import CPU, Device, Plan, select_device
from service.errors import ModelFailure, OutOfMemory
from service.loading import open_session, prove_graphs, recorded, warm_up
from service.opening import LONGEST_REST, open_model
from service.session import Rows, Scores
from service.settings import Settings
from tests.bundles import expected, make_bundle
from tests.service.sessions import Recorder

BOUND = Device(CPU, slots=2, bound=True)


@pytest.mark.parametrize(("beside", "expected"), [(False, []), (True, [0.75, LONGEST_REST])])
def test_a_load_beside_others_rests_after_the_checks_and_the_proof(
    tmp_path: Path, beside: bool, expected: list[float]
) -> None:
    path = make_bundle(tmp_path).path
    rests: list[float] = []
    times = iter((0.0, 0.25, 10.0, 15.0))

    async def sleep(seconds: float) -> None:
        rests.append(seconds)

    async def load() -> None:
        settings = Settings(models=tmp_path)
        _, slots = await open_model(
            path,
            select_device("cpu"),
            settings,
            beside=beside,
            background=False,
            clock=lambda: next(times),
            sleep=sleep,
        )
        for slot in slots:
            slot.close()

    asyncio.run(load())
    assert rests == expected


@pytest.mark.parametrize(("bound", "sizes"), [(False, [6]), (True, [6, 4, 2, 1])])
def test_only_buckets_are_all_warmed_up(tmp_path: Path, bound: bool, sizes: list[int]) -> None:
    bundle = make_bundle(tmp_path)
    session = Recorder(bundle.model_path, select_device("cpu"), threads=1)
    warm_up(bundle.golden(), session, 6, bound=bound)
    assert session.sizes == sizes


@pytest.mark.parametrize("error", [ModelFailure("not recordable"), OutOfMemory("", retry_after=1)])
def test_what_cannot_be_recorded_runs_without_graphs(error: Exception) -> None:
    tried: list[Plan] = []

    def make(plan: Plan) -> str:
        tried.append(plan)
        if plan.graphs:
            raise error
        return "session"

    with structlog.testing.capture_logs() as logs:
        made = recorded(make, Plan(search="EXHAUSTIVE", nhwc=True, graphs=True))
    assert (made, tried[1:]) == ("session", [Plan(nhwc=True)])
    assert [one["event"] for one in logs] == ["graphs_refused"]


def test_what_fails_without_graphs_is_not_tried_twice() -> None:
    tried: list[Plan] = []

    def make(plan: Plan) -> str:
        tried.append(plan)
        raise ModelFailure("broken")

    with pytest.raises(ModelFailure):
        recorded(make, Plan())
    assert tried == [Plan()]


def test_each_recorded_graph_is_held_against_the_golden_outputs(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    session = Recorder(bundle.model_path, select_device("cpu"), threads=1)
    prove_graphs(bundle, bundle.golden(), session, 6)
    assert session.sizes == [1, 2, 4, 6]


@pytest.mark.parametrize("size", [1, 2, 4, 6])
def test_a_graph_that_answers_otherwise_is_refused(tmp_path: Path, size: int) -> None:
    bundle = make_bundle(tmp_path)
    session = WrongAt(bundle.model_path, size)
    with pytest.raises(ModelFailure) as failure:
        prove_graphs(bundle, bundle.golden(), session, 6)
    assert f"for {size} images" in failure.value.detail


def test_a_session_with_graphs_is_proven_in_each_bucket(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    settings = Settings(max_batch_size=2)
    session = open_session(bundle, bundle.golden(), BOUND, Plan(graphs=True), settings)
    pixels = bundle.golden().pixels[:2]
    np.testing.assert_allclose(session.run(pixels), expected(pixels), atol=1e-5)


class WrongAt(Recorder):
    """A session whose batches of one size get no answers but zeros."""

    def __init__(self, model: Path, size: int) -> None:
        super().__init__(model, select_device("cpu"), threads=1)
        self._size = size

    def run(self, *parts: Rows) -> Scores:
        answers = super().run(*parts)
        return np.zeros_like(answers) if len(answers) == self._size else answers
