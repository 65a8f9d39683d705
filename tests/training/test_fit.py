"""`convoy-train fit`: what it says, and what it finds out before an epoch is spent."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.colours import write_photos
from tests.training.sources import write_source
from training.cli import main
from training.datasets import SOURCES, Split
from training.datasets.folder import Folder
from training.recipe import load_recipe

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


def test_a_corrupt_test_photo_ends_the_command_before_an_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_photos(tmp_path / "photos" / "train", 8)
    (write_photos(tmp_path / "photos" / "test", 3) / "red" / "01.png").write_bytes(b"damaged")
    assert fit(tmp_path, tmp_path / "photos") == 2
    assert "test/red/01.png: " in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_corrupt_photo_of_a_table_s_test_share(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_source(load_recipe("image-table"), tmp_path / "photos")
    head, *rows = table.read_text().splitlines()
    lines = [f"{head},split", *(f"{row},train" for row in rows), "bad.png,0;1,test"]
    table.write_text("\n".join(lines))
    (tmp_path / "photos" / "bad.png").write_bytes(b"damaged")
    assert fit(tmp_path, table, recipe="image-table") == 2
    assert "photos/bad.png: " in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_photo_of_training_and_of_test_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    write_photos(photos / "train", 8)
    write_photos(photos / "test", 3, seed=1)
    learnt = photos / "train" / "red" / "05.png"
    for name in ("a.png", "b.png"):
        (photos / "test" / "red" / name).write_bytes(learnt.read_bytes())
    assert fit(tmp_path, photos) == 0
    first, *_ = capsys.readouterr().err.splitlines()
    assert first == (
        f"2 of the test photos are trained on, too, byte for byte, such as "
        f"{photos / 'test/red/a.png'} as {learnt}: the measured accuracy may be too high; remove "
        "one of each"
    )


class Fragile(Folder):
    """Photos that can be read once."""

    reads = 0

    def tests(self) -> list[Split]:
        self.reads += 1
        if self.reads > 1:
            raise RuntimeError("what nobody has thought of")
        return super().tests()


def test_whatever_ends_an_export_the_command_that_repeats_it_is_said(
    tmp_path: Path,
    photos: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(SOURCES, "folder", Fragile)
    with pytest.raises(RuntimeError, match="nobody has thought of"):
        fit(tmp_path, photos)
    *_, hint = capsys.readouterr().err.splitlines()
    assert hint.startswith(f"  convoy-train export {tmp_path / 'run'} ")


@pytest.mark.parametrize(
    ("made", "message"), [(False, "golden: no image files"), (True, "cat.jpg: not an image")]
)
def test_golden_inputs_are_read_before_an_epoch(
    tmp_path: Path, photos: Path, made: bool, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if made:
        (tmp_path / "golden").mkdir()
        (tmp_path / "golden" / "cat.jpg").write_text("a text")
    assert fit(tmp_path, photos, "--golden", str(tmp_path / "golden")) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
