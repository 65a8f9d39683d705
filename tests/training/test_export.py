"""Export: the graph does what the network does, and the bundle says how good that is."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from convoy.bundle import Bundle
from convoy.imaging import decode
from tests.training.colours import export, tiny_recipe, write_photos
from tests.training.graphs import readers
from training.classifier import Classifier
from training.datasets import Source, Splits
from training.deployed import Deployed, to_onnx
from training.errors import TrainingError
from training.evaluate import evaluate_bundle, find_tests
from training.export import require_parity
from training.measure import OnnxModel
from training.runs import Run
from training.train import train


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, source: Source, splits: Splits) -> Run:
    """A run over its last epoch."""
    recipe = tiny_recipe(epochs=6, description="three colours")
    run = Run.create(tmp_path_factory.mktemp("run"), recipe, Path("photos"), splits)
    train(run, source, splits)
    return run


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, finished: Run, photos: Path) -> Bundle:
    return export(finished, tmp_path_factory.mktemp("models"), photos)


@pytest.fixture
def deployed(finished: Run, source: Source) -> Deployed:
    classifier = Classifier(finished.recipe, source.spec, len(source.labels))
    classifier.load_state_dict(finished.load()["best"])
    return Deployed(classifier).eval()


def test_graph_takes_any_batch_and_agrees(
    bundle: Bundle, deployed: Deployed, source: Source
) -> None:
    images = source.training().images
    model = OnnxModel(bundle.model_path)
    deployed.temperature = bundle.manifest.temperature
    whole = deployed.predict(images)
    for size in (1, 2, 5, 45):
        np.testing.assert_allclose(model(images[:size]), whole[:size], atol=1e-5)
    np.testing.assert_allclose(whole.sum(axis=1), 1.0, atol=1e-5)


def test_the_graph_names_no_file_of_this_machine(bundle: Bundle) -> None:
    folder = str(Path(__file__).resolve().parents[2])
    assert folder.encode() not in bundle.model_path.read_bytes()


def test_pixels_are_cast_before_their_axes_change_places(bundle: Bundle) -> None:
    assert readers(bundle) == ["Cast"]


def test_mirror_averaging_is_in_the_graph(finished: Run, source: Source) -> None:
    recipe = finished.recipe.model_copy(update={"mirror_averaging": True})
    classifier = Classifier(recipe, source.spec, len(source.labels))
    classifier.load_state_dict(finished.load()["best"])
    model = OnnxModel(to_onnx(Deployed(classifier).eval(), source.spec))
    images = np.random.default_rng(0).integers(0, 256, (3, *source.spec.shape), np.uint8)
    mirrored = np.ascontiguousarray(images[:, :, ::-1])
    np.testing.assert_allclose(model(images), model(mirrored), atol=1e-6)


def test_manifest_says_where_it_comes_from(bundle: Bundle, finished: Run) -> None:
    manifest = bundle.manifest
    assert (manifest.name, manifest.version, manifest.description) == (
        "colours",
        1,
        "three colours",
    )
    assert manifest.labels == ("blue", "green", "red")
    assert manifest.training.recipe["network"]["filters"] == [8, 8]
    assert (manifest.training.train_images, manifest.training.validation_images) == (45, 6)
    assert manifest.training.dataset_sha256 == finished.environment["dataset_sha256"]
    assert manifest.training.seed == 3


def test_quality_is_measured_on_the_file(bundle: Bundle, photos: Path) -> None:
    (quality,) = bundle.manifest.quality
    assert (quality.split, quality.images) == ("test-9", 9)
    assert evaluate_bundle(bundle, find_tests(bundle, photos)) == [quality]
    assert bundle.manifest.baseline is not None
    assert sum(bundle.manifest.baseline.class_shares) == pytest.approx(1.0)


def test_golden_inputs_decode_to_their_pixels(bundle: Bundle) -> None:
    golden = bundle.golden()
    pixels = np.stack([decode(data, bundle.manifest.input) for data in golden.encoded])
    np.testing.assert_array_equal(pixels, golden.pixels)
    answers = OnnxModel(bundle.model_path)(golden.pixels)
    np.testing.assert_allclose(answers, golden.probabilities, atol=1e-6)


@pytest.mark.parametrize(
    ("models", "golden", "message"),
    [
        ("models", "typo", "typo: no image files to make golden inputs of"),
        ("file/models", None, "file: no folder; name another with --models"),
    ],
)
def test_what_cannot_be_written_or_read_is_refused_before_the_run_is_read(
    tmp_path: Path, photos: Path, splits: Splits, models: str, golden: str | None, message: str
) -> None:
    (tmp_path / "file").touch()
    unfinished = Run.create(tmp_path / "run", tiny_recipe(), photos, splits)
    options = {"golden": golden and tmp_path / golden}
    with pytest.raises(TrainingError, match=message):
        export(unfinished, tmp_path / models, photos, **options)


def test_versions_count_up_and_golden_files_are_taken(
    tmp_path: Path, finished: Run, photos: Path
) -> None:
    golden = shutil.copytree(photos / "red", tmp_path / "golden")
    files = sorted(golden.iterdir())
    (golden / f"._{files[0].name}").write_bytes(b"what macOS knows of it")
    for version in (1, 2):
        written = export(finished, tmp_path, photos, name="mine", golden=golden)
        assert written.path == tmp_path / "mine" / str(version)
    assert written.golden().encoded == tuple(file.read_bytes() for file in files)


def test_a_graph_that_disagrees_is_refused(deployed: Deployed, source: Source) -> None:
    graph = to_onnx(deployed, source.spec)
    tests = source.tests()
    ((split, answers),) = require_parity(deployed, graph, tests)
    np.testing.assert_array_equal(answers, OnnxModel(graph).predict(split.images))
    with torch.no_grad():
        list(deployed.parameters())[-1][0] += 1.0  # the first class's bias
    with pytest.raises(TrainingError, match=r"export refused: at batch \d+ ONNX Runtime and"):
        require_parity(deployed, graph, tests)


def test_nan_is_refused(deployed: Deployed, source: Source) -> None:
    with torch.no_grad():
        next(deployed.parameters()).fill_(float("nan"))
    graph = to_onnx(deployed, source.spec)
    with pytest.raises(TrainingError, match=r"export refused: .* differ by nan"):
        require_parity(deployed, graph, source.tests())


def test_unfinished_run_is_not_exported(tmp_path: Path, splits: Splits, photos: Path) -> None:
    run = Run.create(tmp_path, tiny_recipe(), photos, splits)
    run.save({"model": {}, "log": [], "best": {}}, [])
    with pytest.raises(TrainingError, match="has not finished an epoch yet"):
        export(run, tmp_path / "models", photos)
    assert not (tmp_path / "models").exists()


def test_evaluate_on_another_folder(tmp_path: Path, bundle: Bundle) -> None:
    new = find_tests(bundle, write_photos(tmp_path / "new", 5, seed=9), folder=True)
    (quality,) = evaluate_bundle(bundle, new)
    assert (quality.split, quality.images) == ("new", 15)
    (tmp_path / "new" / "violet").mkdir()
    with pytest.raises(TrainingError, match=r"violet: no class of the bundle, which knows blue"):
        find_tests(bundle, tmp_path / "new", folder=True)
    with pytest.raises(TrainingError, match="no images in this class"):
        find_tests(bundle, tmp_path / "new")


def test_evaluate_on_photos_of_one_class(tmp_path: Path, bundle: Bundle) -> None:
    write_photos(tmp_path / "new", 5, seed=9)
    (tmp_path / "red").mkdir()
    (tmp_path / "new" / "red").rename(tmp_path / "red" / "red")
    (quality,) = evaluate_bundle(bundle, find_tests(bundle, tmp_path / "red", folder=True))
    assert (quality.images, sum(map(sum, quality.confusion or ()))) == (5, 5)
    (tmp_path / "none").mkdir()
    with pytest.raises(TrainingError, match="0 class folders; there must be at least 1"):
        find_tests(bundle, tmp_path / "none", folder=True)


def test_evaluate_one_split(bundle: Bundle, photos: Path) -> None:
    assert len(find_tests(bundle, photos, only="test-9")) == 1
    with pytest.raises(TrainingError, match="has no test split 'test-8', only test-9"):
        find_tests(bundle, photos, only="test-8")


def test_a_folder_that_has_changed_has_no_test_images(tmp_path: Path, bundle: Bundle) -> None:
    grown = write_photos(tmp_path / "grown", 20)
    assert len(find_tests(bundle, grown)) == 1
    write_photos(tmp_path / "more", 1, seed=9)
    (tmp_path / "more" / "red" / "00.png").rename(grown / "red" / "00a.png")
    with pytest.raises(TrainingError, match=r"may have been trained on; .* with --folder"):
        find_tests(bundle, grown)
    # Test images in a folder of their own stay what they are.
    (tmp_path / "own").mkdir()
    grown.rename(tmp_path / "own" / "train")
    write_photos(tmp_path / "own" / "test", 2, seed=8)
    assert len(find_tests(bundle, tmp_path / "own")[0]) == 6


def test_other_images_are_not_the_run_s(tmp_path: Path, finished: Run, photos: Path) -> None:
    other = write_photos(tmp_path / "other", 20, seed=9)
    with pytest.raises(TrainingError, match="was started on other images; give the same by --dat"):
        export(finished, tmp_path / "models", other)
    with pytest.raises(TrainingError, match="'a b' cannot be a bundle's name"):
        export(finished, tmp_path / "models", photos, name="a b")
    assert not (tmp_path / "models").exists()


def test_a_run_that_has_diverged_is_refused(tmp_path: Path, finished: Run, photos: Path) -> None:
    checkpoint = finished.load()
    for entry in checkpoint["log"]:
        entry["validation_loss"] = 4e16
    shutil.copytree(finished.path, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    run.save(checkpoint, checkpoint["log"])
    with pytest.raises(TrainingError, match=r"export refused: .*run has diverged.* is 4e\+16; tr"):
        export(run, tmp_path / "models", photos)
