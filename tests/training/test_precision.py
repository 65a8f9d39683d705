"""Half precision and 8-bit integers, on real digits: as good as fp32, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import convoy
from convoy.bundle import Bundle, Precision
from tests.servers import running_server
from tests.training.colours import export
from tests.training.sources import cut_mnist
from training.classifier import Classifier
from training.cli import main
from training.datasets import Source, open_source, split_training
from training.deployed import Deployed, to_onnx
from training.errors import TrainingError
from training.measure import OnnxModel
from training.precision import calibration_images, require_as_good, to_int8
from training.recipe import load_recipe
from training.runs import Run
from training.train import train

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@pytest.fixture(scope="module")
def digits(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MNIST's first 4,000 training and 1,000 test images."""
    return cut_mnist(data, tmp_path_factory.mktemp("mnist"), 4000, 1000)


@pytest.fixture(scope="module")
def run(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two epochs of the recipe's network."""
    recipe = load_recipe("mnist-cnn", ["epochs=2", "precision=fp32"])
    source = open_source(recipe, digits)
    splits = split_training(source, recipe)
    run = Run.create(tmp_path_factory.mktemp("run"), recipe, digits, splits)
    train(run, source, splits)
    return run


@pytest.fixture(scope="module")
def models(run: Run, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of each precision, by that name."""
    models = tmp_path_factory.mktemp("models")
    for precision in PRECISIONS:
        export(run, models, digits, name=precision, precision=precision)
    return models


@pytest.fixture(scope="module")
def source(run: Run, digits: Path) -> Source:
    return open_source(run.recipe, digits)


@pytest.mark.parametrize(("precision", "kind"), [("fp16", "FLOAT16"), ("int8", "INT8")])
def test_weights_are_kept_in_that_precision(models: Path, precision: str, kind: str) -> None:
    fp32, bundle = (Bundle.open(models / name / "1") for name in ("fp32", precision))
    graph = onnx.load(bundle.model_path).graph
    large = {one.data_type for one in graph.initializer if np.prod(one.dims) > 1000}
    assert large == {getattr(onnx.TensorProto, kind)}
    sizes = [one.manifest.files["model.onnx"].bytes for one in (fp32, bundle)]
    assert sizes[1] < 0.6 * sizes[0]


@pytest.mark.parametrize(("precision", "loss"), [("fp16", 0.001), ("int8", 0.005)])
def test_accuracy_is_that_of_fp32(models: Path, precision: str, loss: float) -> None:
    fp32, bundle = (Bundle.open(models / name / "1").manifest for name in ("fp32", precision))
    assert bundle.precision == precision
    assert bundle.quality[0].accuracy >= fp32.quality[0].accuracy - loss - 1e-9
    assert fp32.golden_tolerance < bundle.golden_tolerance
    assert [one.precision for one in bundle.speed] == [precision, "fp32"]
    assert bundle.speed[0].bytes == bundle.files["model.onnx"].bytes < bundle.speed[1].bytes
    page = (models / precision / "1" / "report.html").read_text()
    for one in bundle.speed:  # side by side
        size = f"{one.bytes / 1e6:.2f} MB"
        assert f"<tr><td>{one.precision}</td><td>{size}</td><td>{one.batch_1_ms:.2f} ms" in page


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_batch_changes_no_answer(models: Path, source: Source, precision: str) -> None:
    model = OnnxModel(Bundle.open(models / precision / "1").model_path)
    assert model.batch_difference(source.tests()[0].images[:20]) <= 1e-5


def test_capsules_become_integers_but_for_their_stacked_products(source: Source) -> None:
    recipe = load_recipe("mnist-capsnet")
    deployed = Deployed(Classifier(recipe, source.spec, 10)).eval()
    images = source.tests()[0].images[:16]
    model = OnnxModel(to_int8(to_onnx(deployed, source.spec), images))
    np.testing.assert_allclose(model(images), deployed.predict(images), atol=0.05)


def test_all_are_served(models: Path) -> None:
    photos = list(Bundle.open(models / "fp32" / "1").golden().encoded)
    with running_server(models) as server:
        for precision in PRECISIONS:
            golden = Bundle.open(models / precision / "1").golden().probabilities
            with convoy.ImageClient(server.grpc_address, model=precision) as client:
                results = client.classify(photos, top_k=1)
            for result, row in zip(results, golden, strict=True):
                assert result.classes[0].index == row.argmax()
                assert result.classes[0].probability == pytest.approx(row.max(), abs=1e-5)


def test_int8_that_loses_too_much_is_refused(models: Path, source: Source) -> None:
    fp32 = OnnxModel(path := Bundle.open(models / "fp32" / "1").model_path)
    black = np.zeros_like(calibration_images(source.training(), seed=0))
    ruined = OnnxModel(to_int8(path.read_bytes(), black))
    measured, reference = (
        [(split, model.predict(split.images)) for split in source.tests()]
        for model in (ruined, fp32)
    )
    with pytest.raises(
        TrainingError, match=r"on test-1000, int8 is \d+\.\d\d% \(.*\) right and fp32 9"
    ):
        require_as_good("int8", ruined, measured, reference)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_refused_export_writes_nothing(
    tmp_path: Path, run: Run, precision: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every other hidden unit is made a million times louder, and heard that much less."""
    checkpoint = run.load()
    into, out = [key for key in checkpoint["best"] if key.startswith("network.")][-4::2]
    checkpoint["best"][into][::2] *= 1e6
    checkpoint["best"][out][:, ::2] /= 1e6
    loud = Run(tmp_path / "run", run.recipe, run.environment)
    loud.path.mkdir()
    loud.save(checkpoint, checkpoint["log"])
    for name in ("recipe.json", "environment.json"):
        (loud.path / name).write_bytes((run.path / name).read_bytes())
    options = ["--models", str(tmp_path / "models"), "--precision", precision]
    assert main(["export", str(loud.path), *options]) == 2
    progress, error = capsys.readouterr().err.splitlines()
    assert progress == f"exporting epoch 2 as {precision}"
    assert error.startswith("convoy-train: export refused: ")
    assert not (tmp_path / "models").exists()
