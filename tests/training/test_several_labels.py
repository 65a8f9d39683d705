"""Several labels an image: from a CSV file, or composed, to thresholds in a bundle that serves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convoy.bundle import write_bundle
from convoy.client.sync import ImageClient
from tests.bundles import make_bundle
from tests.servers import running_server
from tests.training.colours import COLOURS, export, tiny_recipe
from training.compare import compare_bundles
from training.comparison import describe_comparison
from training.datasets import Labelled, open_source, split_training
from training.datasets.base import stratified_split
from training.datasets.garments import pair
from training.errors import TrainingError
from training.evaluate import describe_quality, evaluate_bundle, find_tests
from training.measure import OnnxModel
from training.metrics import decide, per_class
from training.recipe import Recipe, load_recipe
from training.runs import Run
from training.thresholds import choose_thresholds
from training.train import train


def table_recipe(**changes: object) -> Recipe:
    changes = {"source": "table", "objective": "multi-label", "weight_decay": 0.0} | changes
    return tiny_recipe(**changes)


def write_table(root: Path, count: int) -> Path:
    """`count` pictures whose halves are of two colours, or the same, listed in a CSV file."""
    random = np.random.default_rng(0)
    names = list(COLOURS)
    lines = ["file,labels"]
    for number in range(count):
        pixels = random.integers(-40, 41, (16, 16, 3))
        halves = random.choice(names, 2)
        for side, name in enumerate(halves):
            pixels[:, 8 * side : 8 * side + 8] += np.array(COLOURS[name])
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / f"{number:03}.png")
        lines.append(f"{number:03}.png,{'; '.join(halves)}")
    (root / "labels.csv").write_text("\n".join(lines))
    return root / "labels.csv"


def test_from_a_table_to_a_service(tmp_path: Path) -> None:
    table = write_table(tmp_path, 120)
    recipe = table_recipe(epochs=6, network={"name": "fast", "widths": [8]}, learning_rate=0.2)
    source = open_source(recipe, table)
    splits = split_training(source, recipe)
    run = Run.create(tmp_path / "run", recipe, table, splits)
    train(run, source, splits)
    bundle = export(run, tmp_path / "models", table)

    manifest = bundle.manifest
    (quality,) = manifest.quality
    assert (manifest.labels, manifest.task) == (("blue", "green", "red"), "multi-label")
    assert manifest.training.dataset == "labels.csv"
    assert quality.macro_f1 is not None
    assert quality.macro_f1 > 0.8
    assert evaluate_bundle(bundle, find_tests(bundle, table)) == [quality]
    assert manifest.baseline is not None
    (test,) = source.tests()
    given = OnnxModel(bundle.model_path).predict(test.images) > np.array(manifest.thresholds)
    assert manifest.baseline.label_shares == pytest.approx(given.mean(axis=0))
    assert "predicted as" not in describe_quality(quality, manifest.labels)
    assert "Confusion" not in (bundle.path / "report.html").read_text()
    with running_server(tmp_path / "models") as server, ImageClient(server.grpc_address) as client:
        assert client.get_model().thresholds == pytest.approx(manifest.thresholds)
        (result,) = client.classify([bundle.golden().encoded[0]])
    expected = bundle.golden().probabilities[0].max()
    assert result.probability == pytest.approx(expected, abs=1e-4)


def test_comparing_tells_macro_f1_and_what_it_judges_by(tmp_path: Path) -> None:
    table, pair = write_table(tmp_path, 60), []
    # Tables' labels are in order of the alphabet, this bundle's in that of its input's channels.
    labels = {"red": "1 red", "green": "2 green", "blue": "3 blue"}
    for name, label in labels.items():
        table.write_text(table.read_text().replace(name, label))
    tiny = make_bundle(tmp_path / "tiny", labels=tuple(labels.values()), size=16)
    # Of two halves, each has about one half: one asks for too much.
    for version, threshold in ((1, 0.6), (2, 0.3)):
        recipe = table_recipe().model_dump(mode="json")
        training = tiny.manifest.training.model_copy(update={"recipe": recipe})
        changes = {"training": training, "version": version, "thresholds": (threshold,) * 3}
        manifest = tiny.manifest.model_copy(update={"task": "multi-label", **changes})
        files = {name: (tiny.path / name).read_bytes() for name in tiny.manifest.files}
        pair.append(write_bundle(tmp_path, manifest, files))
    found = compare_bundles(*pair, table)
    assert found.old.macro_f1 is not None
    assert found.old.macro_f1 < 0.8
    assert (found.new.macro_f1, found.new.accuracy) == (1.0, 1.0)
    lines = [line.split() for line in describe_comparison(found).splitlines()]
    assert ["macro", "F1", f"{found.old.macro_f1:.4f}", "1.0000"] in lines
    assert ["all", "labels", "right"] in [line[:3] for line in lines]
    assert describe_comparison(found).endswith('"all labels right", the new one is better')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column 'file'; the first line is file,labels"),
        ("file,labels\n", "holds no rows"),
        ("file,tags\n1.png,a", "unknown column 'tags'; it takes file, labels, split"),
        ("file\n1.png", "has no column 'labels'"),
        ("file,labels\n1.png,a\ngone.png,b", "line 3: .*gone.png: no such file"),
        ("file,labels\n1.png,a\n" + 300 * "x" + ",b", "line 3: .*xxx: no such file"),
        ("file,labels\n1.png,a,b", "line 2: not 2 cells"),
        ("file,labels\n1.png,a\n1.png,b", "line 3: .*1.png stands twice"),
        ("file,labels\n1.png,a\n./folder/../1.png,b", "line 3: .*1.png stands twice"),
        ("file,labels\n1.png,", "no photo has a label"),
        ("file,labels\n1.png,a", "label 'a' is on 1 photo; it takes 3"),
        ("file,labels,split\n1.png,a", "line 2: not 3 cells"),
        ("file,labels,split\n1.png,a,dev", "line 2: unknown split 'dev'; write train or valid"),
        ("file,labels,split\n1.png,a,", "line 2: unknown split ''"),
        ("file,labels\n\xff", "not a CSV file in UTF-8"),
    ],
)
def test_a_bad_table_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "1.png").touch()
    (tmp_path / "folder").mkdir()
    table = tmp_path / "labels.csv"
    table.write_bytes(text.encode("latin-1"))
    with pytest.raises(TrainingError, match=message) as caught:
        open_source(table_recipe(), table)
    assert str(caught.value).startswith(str(table))
    assert "\n" not in str(caught.value)


def test_too_few_images_to_hold_any_out_are_refused() -> None:
    with pytest.raises(TrainingError, match="none of the 3 images to train on can be held out"):
        stratified_split(np.eye(3, dtype=np.uint8), 0.1, seed=0)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"gone\.csv: No such file .*--data names the CSV file"):
        open_source(table_recipe(), tmp_path / "gone.csv")


def test_a_table_s_rows_keep_their_labels(tmp_path: Path) -> None:
    source = open_source(table_recipe(), write_table(tmp_path, 30))
    (test,) = source.tests()
    training = source.training()
    assert (len(training), len(test)) == (25, 5)
    assert (training.labels.shape, training.labels.dtype) == ((25, 3), np.uint8)
    # Of each image, the mean red, green and blue; a colour that is there is brighter in its own.
    brightness = training.images.mean(axis=(1, 2))[:, ::-1]
    assert (brightness > 90).astype(np.uint8).tolist() == training.labels.tolist()


def with_splits(table: Path, names: Sequence[str]) -> Path:
    """The table with its rows' splits, as many as are named."""
    head, *rows = table.read_text().splitlines()
    lines = [f"{head},split", *(f"{row},{name}" for row, name in zip(rows, names, strict=False))]
    table.write_text("\n".join(lines))
    return table


def test_a_table_s_own_splits_are_taken(tmp_path: Path) -> None:
    table = write_table(tmp_path, 30)
    drawn = open_source(table_recipe(), table)
    whole = np.concatenate([part.images for part in (drawn.training(), *drawn.tests())])
    source = open_source(
        table_recipe(), with_splits(table, ["test"] * 6 + ["validation"] * 5 + ["train"] * 19)
    )
    splits = split_training(source, table_recipe())
    (test,) = source.tests()
    assert (len(splits.train), len(splits.validation), len(test)) == (19, 5, 6)
    assert (drawn.draws_test, source.draws_test) == (True, False)
    parts = np.concatenate([part.images for part in (splits.train, splits.validation, test)])
    assert {image.tobytes() for image in parts} == {image.tobytes() for image in whole}


def test_splits_that_a_table_lacks_are_drawn(tmp_path: Path) -> None:
    table = with_splits(write_table(tmp_path, 30), ["validation"] * 5 + ["train"] * 25)
    source = open_source(table_recipe(), table)
    (test,) = source.tests()
    validation = source.validation()
    assert validation is not None
    assert (len(source.training()) + len(test), len(validation)) == (25, 5)
    assert len(test) in (3, 4, 5)


def test_a_label_that_cannot_be_learnt_is_named(tmp_path: Path) -> None:
    table = with_splits(write_table(tmp_path, 9), ["test"] * 9)
    with pytest.raises(TrainingError, match="label 'blue' is on no photo of split train: add some"):
        open_source(table_recipe(), table)


def test_the_rarest_label_is_in_both_parts() -> None:
    labels = np.zeros((100, 3), np.uint8)
    labels[:60, 0] = labels[30:90, 1] = labels[[5, 35], 2] = 1
    held, rest = stratified_split(labels, 0.1, seed=5)
    assert labels[held, 2].sum() == labels[rest, 2].sum() == 1
    assert 8 <= len(held) <= 12
    assert np.array_equal(np.union1d(held, rest), np.arange(100))


def test_thresholds_have_the_highest_f1_there_is() -> None:
    random = np.random.default_rng(0)
    labels = (random.random((40, 2)) < (0.5, 0.1)).astype(np.uint8)
    labels[0] = 1
    probabilities = (labels * 0.2 + random.random((40, 2)) * 0.5).round(1).astype(np.float32)
    chosen = per_class(*decide(labels, probabilities, choose_thresholds(labels, probabilities)))[2]
    every = [per_class(*decide(labels, probabilities, [t, t]))[2] for t in np.arange(-0.05, 1, 0.1)]
    np.testing.assert_allclose(chosen, np.max(every, axis=0))


def test_a_threshold_lies_half_way_between_what_it_parts() -> None:
    labels = np.array([[1, 0], [1, 0], [0, 0]], np.uint8)
    probabilities = np.array([[0.75, 0.1], [0.5, 0.2], [0.25, 0.3]], np.float32)
    # A label that validation never shows keeps one half.
    assert choose_thresholds(labels, probabilities) == (0.375, 0.5)


def test_every_article_is_in_one_pair() -> None:
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    pairs = pair(Labelled(images, np.array([0, 1, 2, 2, 1])), classes=3)
    assert pairs.images.shape == (2, 1, 2, 1)
    assert sorted(pairs.images.ravel()) == [0, 1, 2, 3]
    for image, flags in zip(pairs.images.ravel().reshape(2, 2), pairs.labels, strict=True):
        assert set(np.flatnonzero(flags)) == {[0, 1, 2, 2, 1][one] for one in image}


def test_garments(data: Path) -> None:
    source = open_source(load_recipe("multi-label"), data)
    (test,) = source.tests()
    training = source.training()
    assert training.images.shape == (30000, 28, 56, 1)
    assert test.images.shape == (5000, 28, 56, 1)
    assert set(training.labels.sum(axis=1)) == {1, 2}
    assert training.sha256() == source.training().sha256()
