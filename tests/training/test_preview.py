"""The sheet of augmented samples: the right pictures, in a file that opens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.colours import tiny_recipe
from training.cli import main
from training.datasets import Source
from training.preview import augmented, draw, names, write_preview

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3), dtype=np.uint8)


def test_originals_stand_beside_augmented_versions() -> None:
    sheet = augmented(PIXELS, tiny_recipe(augmentation={"flip": True}), 8)
    assert sheet.shape == (2, 9, 12, 12, 3)
    for original, versions in zip(PIXELS, sheet, strict=True):
        assert np.array_equal(versions[0], original)
        assert {one.tobytes() for one in versions} == {
            original.tobytes(),
            original[:, ::-1].tobytes(),
        }


def test_several_labels_are_all_named() -> None:
    assert names(("cat", "dog"), np.array([1, 0])) == ["dog", "cat"]
    assert names(("cat", "dog"), np.array([[1, 1], [0, 1]], np.uint8)) == ["cat, dog", "dog"]


def test_no_image_is_drawn_twice(tmp_path: Path, source: Source) -> None:
    write_preview(source, tiny_recipe(), tmp_path / "sheet.png", images=1000, versions=1)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > 20 * sheet.width  # one row each, two columns


def test_preview_command(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", str(data), "--images", "2", "--versions", "3"]
    assert main(["preview", "mnist-cnn", *options, "--out", str(tmp_path / "sheet.png")]) == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > sheet.height
    assert main(["preview", "mnist-cnn", *options, "--out", str(tmp_path / "no" / "x.png")]) == 2
    assert "x.png: cannot be written: No such file" in capsys.readouterr().err


def test_cats_and_dogs_are_found_in_the_collection(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVOY_DATA", str(data))
    options = ["--images", "2", "--versions", "1", "--out", str(tmp_path / "sheet.png")]
    assert main(["preview", "cats-vs-dogs", *options]) == 0


def test_dollar_signs_are_no_formula(tmp_path: Path) -> None:
    figure = draw(augmented(PIXELS, tiny_recipe(), 1), ["a$_$b", "$"])
    figure.savefig(tmp_path / "sheet.png", format="png")
