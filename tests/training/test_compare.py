"""Comparing: the same images, a test of chance, an exit code for a pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy.stats import binomtest

from convoy.bundle import Bundle, write_bundle
from tests.bundles import make_bundle, shipped_bundle
from tests.training.colours import write_photos
from training.cli import main
from training.compare import compare_bundles, gain_interval, mcnemar
from training.errors import TrainingError


@pytest.mark.parametrize(("old", "new"), [(0, 1), (5, 15), (7, 7), (121, 59), (3000, 2800)])
def test_chance_is_scipys(old: int, new: int) -> None:
    assert mcnemar(old, new) == pytest.approx(binomtest(old, old + new).pvalue, rel=1e-9)


def test_bundles_that_agree_differ_by_chance_alone() -> None:
    assert mcnemar(0, 0) == 1.0


def test_interval_of_a_gain() -> None:
    # Agresti, "Categorical Data Analysis", 2002, table 10.1: 1,600 Britons asked twice.
    assert gain_interval(86, 150, 1600) == pytest.approx((0.021, 0.059), abs=5e-4)
    low, high = gain_interval(0, 0, 10)
    assert low < 0 < high


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`colours`, which looks at the mean colour, and `blind`, whose names are mixed up."""
    models = tmp_path_factory.mktemp("models")
    make_bundle(models, "colours", labels=("red", "green", "blue"), size=16)
    make_bundle(models, "blind", labels=("green", "blue", "red"), size=24)
    return models


def test_a_better_bundle_of_another_size(colours: Path, tmp_path: Path) -> None:
    blind, good = (Bundle.open(colours / name / "1") for name in ("blind", "colours"))
    found = compare_bundles(blind, good, write_photos(tmp_path / "new", 8), folder=True)
    assert (found.split, found.images) == ("new", 24)
    assert (found.only_old_right, found.only_new_right) == (0, 24)
    assert (found.gain, found.verdict) == (100.0, "better")
    assert {(one.label, one.old, one.new) for one in found.classes} == {
        (label, 0.0, 1.0) for label in ("red", "green", "blue")
    }
    assert found.new.bytes == good.model_path.stat().st_size
    assert all(time is not None for time in found.new.latency_ms.values())


@pytest.mark.parametrize(
    ("old", "new", "gain", "code"),
    [
        ("blind", "colours", "99.5", 0),
        ("blind", "colours", "100", 0),
        ("colours", "blind", "-50", 1),
        ("colours", "colours", "0", 0),
        ("colours", "colours", "0.1", 1),
    ],
)
def test_the_exit_code_is_the_answer(
    colours: Path,
    tmp_path: Path,
    old: str,
    new: str,
    gain: str,
    code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photos = write_photos(tmp_path / "new", 4)
    pair = [str(colours / name / "1") for name in (old, new)]
    assert main(["compare", *pair, "--data", str(photos), "--folder", "--min-gain", gain]) == code
    verdict = {"blind": "better", "colours": "no different"}[old] if new != "blind" else "worse"
    output = capsys.readouterr().out
    assert f"the new one is {verdict}" in output
    every, none = "75.75-100.00", "0.00-24.25"  # of 12 images
    intervals = [every if name == "colours" else none for name in (old, new)]
    assert ["95%", "interval", *intervals] in [line.split() for line in output.splitlines()]


def test_the_shipped_model_beats_the_mean_colour(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = shipped_bundle()
    labels = shipped.manifest.labels[::-1]  # without a recipe, and in another order
    colour = make_bundle(tmp_path / "models", labels=labels)
    options = ["--data", str(data), "--split", "test-lossless-1000"]
    pair = [str(colour.path), str(shipped.path)]
    assert main(["compare", *pair, *options, "--min-gain", "60", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "better"
    assert found["images"] == 1000
    assert 0.05 < found["old"]["accuracy"] < 0.25
    assert found["p_value"] < 1e-50


def test_a_split_that_there_is_not_is_refused(colours: Path, tmp_path: Path) -> None:
    pair = [Bundle.open(colours / name / "1") for name in ("blind", "colours")]
    photos = write_photos(tmp_path / "new", 1)
    with pytest.raises(TrainingError, match="has no test split 'other', only new"):
        compare_bundles(*pair, photos, folder=True, only="other")


def trained(models: Path, seed: int, resize: str = "center-crop") -> Bundle:
    """A bundle that says that it was trained on a folder of photos."""
    tiny = make_bundle(models, "trained", seed, ("blue", "green", "red"), 16)
    recipe = {"name": "c", "source": "folder", "image_size": 16, "seed": seed, "resize": resize}
    changes = {
        "name": "told",
        "input": tiny.manifest.input.model_copy(update={"resize": resize}),
        "training": tiny.manifest.training.model_copy(update={"recipe": recipe}),
    }
    files = {name: (tiny.path / name).read_bytes() for name in tiny.manifest.files}
    return write_bundle(models, tiny.manifest.model_copy(update=changes), files)


def test_what_one_may_have_learnt_is_refused(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "new", 8)
    pair = [trained(tmp_path / "models", seed) for seed in (1, 2)]
    with pytest.raises(TrainingError, match="held out different test images, so one may have"):
        compare_bundles(*pair, photos)
    assert compare_bundles(pair[0], pair[0], photos).verdict == "no different"


def test_images_cut_by_another_rule_are_not_lent(colours: Path, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "new", 8)
    imported = Bundle.open(colours / "colours" / "1")
    same, other = trained(tmp_path, 1), trained(tmp_path, 2, resize="stretch")
    assert compare_bundles(imported, same, photos).images > 0
    with pytest.raises(TrainingError, match="by another rule"):
        compare_bundles(imported, other, photos)


def test_other_classes_are_refused(
    colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_bundle(tmp_path / "models", labels=("red", "green", "violet"))
    pair = [str(colours / "colours" / "1"), str(tmp_path / "models" / "tiny" / "1")]
    assert main(["compare", *pair, "--data", str(tmp_path), "--folder"]) == 2
    assert "only one of them knows 'blue'" in capsys.readouterr().err
