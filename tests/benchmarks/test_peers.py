"""The comparison's own workings, on this service; the peers would have to be installed."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from benchmarks.peers.measure import Round, measure
from benchmarks.peers.report import document
from benchmarks.peers.servers import Ours
from benchmarks.peers.task import Task, WrongAnswer
from benchmarks.workloads import Workload
from convoy.v1 import image_classifier_pb2 as pb
from tests.bundles import make_bundle, solid


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    image = pb.Image(encoded=solid("red"))
    bundle = make_bundle(tmp_path_factory.mktemp("models"))
    return Task(Workload("test", "tiny", image, 4, 1, 1), bundle)


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is missing")
def test_a_measurement_knows_all_that_the_report_shows(task: Task) -> None:
    ours = Ours("grpcio", compiled=False)
    found = measure(ours, task, ours.settings()[0], 0.05, clients=True)
    assert found.failed == 0
    assert min(found.rate, found.memory, found.cold_start) > 0
    assert found.application is not None


def test_an_answer_must_be_that_of_the_bare_network(task: Task) -> None:
    (right,) = task.run(task.load.pixels(task.bundle.manifest.input)[None])
    task.check(right)
    with pytest.raises(WrongAnswer):
        task.check(right[::-1].copy())
    with pytest.raises(WrongAnswer):
        task.check(np.empty(0, np.float32))


def test_who_fails_before_the_first_round_is_over_has_no_row() -> None:
    rounds = {"bare": [Round(90.0, 1.0, 0)], "convoy, grpcio": [Round(60.0, 1.0, 0)]}
    peers = {"triton": [Round(30.0, 1.0, 0)], "mosec": []}
    text, _ = document({"photos": (rounds | peers, {}, {"mosec": "408"})}, {}, {}, 1, 1.0)
    assert [line for line in text.splitlines() if "mosec" in line] == [
        "| photos | mosec | failed: 408 |"
    ]
    assert "photos, rate: convoy, grpcio is 2.00 times as fast as triton" in text
