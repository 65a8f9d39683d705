"""What a run leaves to look at, and the list of runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.training.colours import tiny_recipe
from training.cli import main
from training.datasets import Source, Splits
from training.errors import TrainingError
from training.listing import list_runs
from training.runs import Run
from training.tracking import CURVES_FILE, EVENTS_FOLDER, tracking
from training.train import train

ENTRY = {
    "train_loss": 1.0, "train_accuracy": 0.5, "learning_rate": 0.1,
    "validation_loss": 1.0, "validation_accuracy": 0.5,
}  # fmt: skip


def logged(path: Path, tag: str) -> list[tuple[int, float]]:
    """What TensorBoard itself reads of a scalar."""
    events = EventAccumulator(str(path / EVENTS_FOLDER)).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, source: Source, splits: Splits
) -> Iterator[Path]:
    """A folder of two runs: one of two epochs, one that has not finished any."""
    folder = tmp_path_factory.mktemp("runs")
    train(Run.create(folder / "done", tiny_recipe(), Path("photos"), splits), source, splits)
    Run.create(folder / "begun", tiny_recipe(name="other"), Path("photos"), splits)
    yield folder
    shutil.rmtree(folder)


def test_tensorboard_reads_every_epoch(runs: Path) -> None:
    log = Run.open(runs / "done").load()["log"]
    expected = [(entry["epoch"], pytest.approx(entry["train_loss"])) for entry in log]
    assert logged(runs / "done", "loss/train") == expected
    assert [step for step, _ in logged(runs / "done", "accuracy/validation")] == [1, 2]


def test_curves_are_a_picture(runs: Path) -> None:
    with Image.open(runs / "done" / CURVES_FILE) as curves:
        assert curves.size == (1100, 320)


def test_what_came_after_the_checkpoint_is_purged(tmp_path: Path) -> None:
    with tracking(tmp_path, tiny_recipe(), []) as tracker:
        tracker.add({"epoch": 1, **ENTRY})
        tracker.add({"epoch": 2, **ENTRY})  # of which the checkpoint knows nothing
    with tracking(tmp_path, tiny_recipe(), [{"epoch": 1, **ENTRY}]) as tracker:
        tracker.add({"epoch": 2, **ENTRY, "train_loss": 0.5})
    assert logged(tmp_path, "loss/train") == [(1, 1.0), (2, 0.5)]


def test_runs_are_listed_and_sorted(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(runs), "--sort", "accuracy"]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["run", "started", "recipe", "network"]
    assert first.split()[0] == "done"
    assert "%" in first
    assert second.split()[4:] == ["0", "2", "-", "-", "-", "-", "-"]
    assert main(["runs", str(runs), "--sort", "recipe", "--json"]) == 0
    assert [row["recipe"] for row in json.loads(capsys.readouterr().out)] == ["colours", "other"]


def test_listing_takes_no_pytorch(runs: Path) -> None:
    code = (
        "import sys, training.cli; training.cli.main(sys.argv[1:]); print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, "runs", str(runs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_what_cannot_be_listed(tmp_path: Path, runs: Path) -> None:
    with pytest.raises(TrainingError, match="gone: no such folder"):
        list_runs(tmp_path / "gone")
    with pytest.raises(TrainingError, match="no runs in it"):
        list_runs(tmp_path)
    with pytest.raises(TrainingError, match="--sort size: no such column, only run, started"):
        list_runs(runs, sort="size")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "recipe.json").write_text("{")
    with pytest.raises(TrainingError, match=r"recipe\.json: not readable"):
        list_runs(tmp_path)
