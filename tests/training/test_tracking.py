"""What a run leaves to look at, and the list of runs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.servers import PATIENCE
from tests.training.colours import tiny_recipe
from tests.training.stopping import full_disk
from training.cli import main
from training.datasets import Source, Splits
from training.errors import TrainingError
from training.listing import list_runs
from training.metrics import describe_share, share_interval
from training.progress import HEAD, describe_epoch
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
    (file,) = (tmp_path / EVENTS_FOLDER).iterdir()
    # TensorBoard reads files in the order of their names, which say the second they were made in.
    file.rename(file.with_name(re.sub(r"\d{10}", "1" + "0" * 9, file.name, count=1)))
    with tracking(tmp_path, tiny_recipe(), [{"epoch": 1, **ENTRY}]) as tracker:
        tracker.add({"epoch": 2, **ENTRY, "train_loss": 0.5})
    assert logged(tmp_path, "loss/train") == [(1, 1.0), (2, 0.5)]


def test_runs_are_listed_and_sorted(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(runs), "--sort", "accuracy"]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["run", "network", "epochs", "best"]
    assert first.split()[:3] == ["done", "cnn", "2/2"]
    assert re.search(r" \d+\.\d\d% \(\d+\.\d\d-\d+\.\d\d\) ", first)
    assert max(map(len, (head, first, second))) <= 100
    assert second.split()[2:] == ["0/2", "-", "-", "-", "-", "-"]
    assert main(["runs", str(runs), "--sort", "recipe", "--json"]) == 0
    done, begun = json.loads(capsys.readouterr().out)
    assert (done["recipe"], begun["recipe"]) == ("colours", "other")
    assert done["accuracy_interval"] == pytest.approx(share_interval(done["accuracy"], 6))
    assert begun["accuracy_interval"] is None


def test_epochs_stand_in_a_table_with_intervals(splits: Splits) -> None:
    entry = {**ENTRY, "epoch": 9, "images_per_second": 1234.5, "data_wait": 0.02, "seconds": 61.6}
    line = describe_epoch(entry, 10, splits)
    shares = [describe_share(0.5, len(part)) for part in (splits.train, splits.validation)]
    cells = ["9/10", "1.000", *shares, "1234", "2%", "62"]
    assert re.split("  +", line.strip()) == cells
    titles = ["epoch", "loss", "train", "validation", "images/s", "waiting", "seconds"]
    for title, cell in zip(titles, cells, strict=True):
        if title in ("train", "validation"):
            assert HEAD.index(title) == line.index(cell)
        else:  # numbers end where their title does
            assert HEAD.index(title) + len(title) == line.index(cell) + len(cell)
    assert len(line) <= len(HEAD) <= 100


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
    with pytest.raises(TrainingError, match="no runs in it"):
        list_runs(tmp_path)


def test_a_folder_that_is_no_whole_run_is_left_out(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs, tmp_path, dirs_exist_ok=True)
    for name in ("foreign", "half"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.json").write_text("{}")
    (tmp_path / "foreign" / "environment.json").write_text("{}")
    assert {row["run"] for row in list_runs(tmp_path)} == {"done", "begun"}
    foreign, half = capsys.readouterr().err.splitlines()
    assert foreign.startswith(f"convoy-train: left out {tmp_path / 'foreign'}: no run's folder")
    assert half.startswith(f"convoy-train: left out {tmp_path / 'half' / 'environment.json'}: not")


# TensorBoard's thread shows its error too.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_disk_that_fills_up_is_one_line(tmp_path: Path) -> None:
    def write() -> None:
        with tracking(tmp_path, tiny_recipe(), []) as tracker, full_disk(2000):
            for epoch in range(1, 100):
                tracker.add({"epoch": epoch, **ENTRY})

    others = set(threading.enumerate())
    with pytest.raises(TrainingError, match="tensorboard: File too large"):
        write()
    for thread in set(threading.enumerate()) - others:
        thread.join(PATIENCE)  # so that its error is this test's
