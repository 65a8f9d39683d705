"""`convoy-train fit`: what it says, and what it finds out before an epoch is spent."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.colours import write_photos
from training.cli import main

QUICK = ("epochs=1", "image_size=16", "network.widths=[4,4]", "batch_size=16")


def fit(folder: Path, data: Path, *options: str, recipe: str = "image-folder") -> int:
    """The exit code of a short training; run and models lie in the folder."""
    sets = [word for change in QUICK for word in ("--set", change)]
    places = ["--run", str(folder / "run"), "--models", str(folder / "models")]
    return main(["fit", recipe, "--data", str(data), *places, *sets, *options])


def test_the_classes_are_named_before_the_first_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, part in enumerate(("Lehrbilder", "Prüfbilder")):
        write_photos(tmp_path / "photos" / part, 8, seed=number)
    assert fit(tmp_path, tmp_path / "photos") == 0
    first, *_ = capsys.readouterr().err.splitlines()
    assert first.endswith(" images to train on, of 2 classes: Lehrbilder, Prüfbilder")
