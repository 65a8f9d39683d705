"""What a user may do wrong: one clear line, exit code 2, nothing half-written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torchvision import models

from tests.training.colours import write_photos
from training.cli import main
from training.runs import Run

Mistake = Callable[[Path], list[str]]
"""Makes one in a folder; returns the arguments that lead to it."""


def unknown_key(folder: Path) -> list[str]:
    return ["image-folder", "--data", str(write_photos(folder, 3)), "--set", "epoch=3"]


def other_labels_in_a_split(folder: Path) -> list[str]:
    write_photos(folder / "train", 3)
    write_photos(folder / "test", 3)
    (folder / "test" / "red").rename(folder / "test" / "pink")
    return ["image-folder", "--data", str(folder)]


def empty_class(folder: Path) -> list[str]:
    (write_photos(folder, 3) / "violet").mkdir()
    return ["image-folder", "--data", str(folder)]


def no_split_to_learn_from(folder: Path) -> list[str]:
    write_photos(folder / "test", 3)
    write_photos(folder / "validation", 3)
    return ["image-folder", "--data", str(folder)]


def no_compiler(folder: Path) -> list[str]:
    return ["image-folder", "--data", str(write_photos(folder, 10)), "--set", "compile=true"]


def missing_photo(folder: Path) -> list[str]:
    write_photos(folder, 3)
    (folder / "labels.csv").write_text("file,labels\nred/00.png,red\nred/gone.png,red\n")
    return ["image-table", "--data", str(folder / "labels.csv")]


def other_weights(folder: Path) -> list[str]:
    torch.save(models.mobilenet_v3_small().state_dict(), folder / "weights.pth")
    weights = f"network.weights={folder / 'weights.pth'}"
    return ["finetune", "--data", str(write_photos(folder / "photos", 3)), "--set", weights]


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (unknown_key, "unknown key 'epoch'; did you mean 'epochs'?"),
        (other_labels_in_a_split, "'pink' is in one of them only"),
        (empty_class, "violet: no images in this class; add some or remove it"),
        (no_split_to_learn_from, "{}: has a folder 'test' but none named 'train'"),
        (no_compiler, "compile: there is no C++ compiler 'none-such'; install one"),
        (missing_photo, "line 3: {}/red/gone.png: no such file; mend the path or remove the row"),
        (other_weights, "weights.pth: not the weights of resnet18: it has no 'conv1.weight'"),
    ],
)
def test_a_mistake_ends_before_anything_is_written(
    tmp_path: Path,
    mistake: Mistake,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CXX", "none-such")
    (tmp_path / "data").mkdir()
    made, results = mistake(tmp_path / "data"), tmp_path / "results"
    options = ["--run", str(results / "run"), "--models", str(results / "models")]
    assert main(["fit", *made, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("convoy-train: ")
    assert message.format(tmp_path / "data") in line
    assert not results.exists()


def test_a_run_that_diverges_keeps_its_last_checkpoint(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, models = tmp_path / "run", tmp_path / "models"
    changes = ["image_size=16", "network.widths=[4,4]", "learning_rate=1e30", "batch_size=8"]
    options = ["--data", str(photos), "--run", str(run), "--models", str(models)]
    sets = [word for change in changes for word in ("--set", change)]
    assert main(["fit", "image-folder", *options, *sets]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("convoy-train: the loss at step ")
    assert "of epoch 1 is not finite: lower learning_rate or set clip_norm" in line
    assert Run.open(run).load()["log"] == []
    assert not list(run.glob(".writing*"))
    assert not models.exists()
