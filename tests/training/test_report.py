"""The page about a bundle: whole in itself, made again from the bundle, true to the graph."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from convoy.bundle import Bundle
from tests.bundles import make_bundle
from tests.training.colours import export, tiny_recipe, write_photos
from training.classifier import Classifier
from training.cli import main
from training.datasets import Source, Split, Splits
from training.evaluate import find_tests, report_bundle
from training.recipe import SHIPPED, load_recipe
from training.report import render_report
from training.report.explain import occlusion, strongest_images
from training.report.graph import Graph
from training.report.mistakes import confident_mistakes, frequent_confusions
from training.report.plots import confusion
from training.report.recipes import to_toml
from training.runs import Run
from training.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, source: Source, splits: Splits) -> Run:
    recipe = tiny_recipe(description="three <colours>")
    run = Run.create(tmp_path_factory.mktemp("run"), recipe, Path("photos"), splits)
    train(run, source, splits)
    return run


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, run: Run, photos: Path) -> Bundle:
    return export(run, tmp_path_factory.mktemp("models"), photos)


def test_the_page_loads_nothing_and_shows_everything(bundle: Bundle) -> None:
    page = (bundle.path / "report.html").read_text()
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(link.startswith(("data:image/", "#")) for link in links)
    assert "url(http" not in page
    assert "three &lt;colours&gt;" in page
    titles = re.findall("<h2>(.*?)</h2>", page)
    assert [title.partition(", on")[0] for title in titles] == [
        "Quality on test images",
        "Size and speed",
        "Learning curves",
        "Classes",
        "Reliability",
        *(["Most confident mistakes"] if "Most confident" in page else []),
        "What the answer depends on",
        "First filters",
        "Feature maps",
        "Images that filters answer most to",
        "Provenance",
    ]
    assert len(page) < 2_000_000


def test_of_many_classes_those_that_test_images_show_are_told(bundle: Bundle) -> None:
    counts = np.zeros((60, 60), int)
    counts[7, 7], counts[9, 8] = 3, 2
    zeros = (0.0,) * 60
    figures = {"precision": zeros, "recall": zeros, "f1": zeros, "confusion": counts.tolist()}
    quality = bundle.manifest.quality[0].model_copy(update=figures)
    labels = tuple(f"class {number}" for number in range(60))
    manifest = bundle.manifest.model_copy(update={"labels": labels, "quality": (quality,)})
    page = render_report(manifest, bundle.model_path.read_bytes(), bundle.golden())
    assert "Of 60 classes, the worst in the test images." in page
    told, mixed_up = ["class 7", "class 9"], ["class 9"]
    assert re.findall(r"<tr><td>(class \d+)</td>", page) == told + mixed_up


def test_the_page_is_made_again_from_the_bundle(bundle: Bundle, photos: Path) -> None:
    page = report_bundle(bundle, find_tests(bundle, photos))
    assert page == (bundle.path / "report.html").read_text()


def test_a_bundle_without_log_recipe_or_convolutions_has_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_bundle(tmp_path / "models")
    assert main(["report", "models/tiny/1"]) == 0
    assert "made without test images: " in capsys.readouterr().err
    page = (tmp_path / "tiny-1.html").read_text()
    assert re.findall("<h2>(.*?)</h2>", page) == ["What the answer depends on", "Provenance"]


def test_a_page_of_other_photos(tmp_path: Path, bundle: Bundle) -> None:
    photos, out = write_photos(tmp_path / "new", 2, seed=9), tmp_path / "page.html"
    options = ["--data", str(photos), "--folder", "--out", str(out)]
    assert main(["report", str(bundle.path), *options]) == 0
    assert "Classes, on new" in out.read_text()
    assert main(["report", str(bundle.path), *options[:-1], str(tmp_path / "no" / "page")]) == 2


def test_inner_results_are_the_networks(bundle: Bundle, run: Run, source: Source) -> None:
    classifier = Classifier(run.recipe, source.spec, 3).eval()
    classifier.load_state_dict(run.load()["best"])
    graph = Graph(bundle.model_path.read_bytes())
    assert [layer.title for layer in graph.layers] == [
        "convolution 1",
        "pooling 1",
        "convolution 2",
        "pooling 2",
    ]
    images = source.training().images[:20]
    x = classifier.normalise(torch.from_numpy(images).permute(0, 3, 1, 2))
    # A stage is convolution, activation, pooling.
    for result, depth in zip(graph.run(graph.layers, images), (2, 3, 5, 6), strict=True):
        theirs = torch.nn.Sequential(*list(classifier.network)[:depth])(x).detach()
        np.testing.assert_allclose(result, theirs, atol=1e-4)
    filters = graph.filters(graph.layers[0], images[0])
    np.testing.assert_allclose(filters, classifier.network[0].weight.detach(), atol=1e-6)


def one_filter() -> bytes:
    """A convolution by one filter of ones, and pooling."""
    ones = numpy_helper.from_array(np.ones((1, 3, 1, 1), np.float32), "ones")
    nodes = [
        helper.make_node("Transpose", ["images"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "ones"], ["a"]),
        helper.make_node("MaxPool", ["a"], ["probabilities"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 8, 8, 3])
    answer = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 1, 4, 4])
    graph = helper.make_graph(nodes, "one-filter", [images], [answer], [ones])
    opset = [helper.make_opsetid("", 18)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


def test_the_strongest_images_come_first_with_their_place() -> None:
    images = np.zeros((30, 8, 8, 3), np.uint8)
    images[7, 2, 5] = 250
    (row,) = strongest_images(Graph(one_filter()), images)
    assert row.caption == "convolution 1, filter 0"
    assert row.picture.startswith("data:image/png;base64,")


def test_hiding_what_counts_costs_most() -> None:
    def predict(images: np.ndarray) -> np.ndarray:
        lit = images[:, :4, :4].mean(axis=(1, 2, 3)) / 255
        return np.stack([1 - lit, lit], axis=1).astype(np.float32)

    image = np.zeros((16, 16, 3), np.uint8)
    image[:4, :4] = 255
    heat = occlusion(predict, image, label=1)
    assert np.unravel_index(heat.argmax(), heat.shape) == (0, 0)
    assert heat[0, 0] == pytest.approx(15 / 16, abs=0.01)  # a patch of grey covers it all
    assert np.abs(heat[8:, 8:]).max() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("side", "places"), [(16, 81), (64, 81), (150, 36), (224, 16), (640, 16)])
def test_patches_leave_no_place_out_and_are_few_on_large_photos(side: int, places: int) -> None:
    asked: list[int] = []

    def predict(images: np.ndarray) -> np.ndarray:
        asked.append(len(images))
        return np.full((len(images), 1), len(asked) == 1, np.float32)  # nothing, once hidden

    heat = occlusion(predict, np.zeros((side, side, 3), np.uint8), label=0)
    assert asked == [1, places]
    np.testing.assert_array_equal(heat, 1.0)


def test_mistakes_are_sorted_by_confidence(bundle: Bundle) -> None:
    split = Split(np.zeros((4, 2, 2, 3), np.uint8), np.array([0, 1, 2, 0]), "four")
    answers = np.array([[1, 0, 0], [0.6, 0.4, 0], [0, 0.9, 0.1], [0, 0, 1.0]], np.float32)
    found = confident_mistakes(bundle.manifest, split, answers)
    assert [(one.said, one.right) for one in found] == [
        ("says red 100.0%", "blue"),
        ("says green 90.0%", "red"),
        ("says blue 60.0%", "green"),
    ]
    several = Split(split.images[:2], np.array([[1, 0, 1], [0, 0, 0]], np.uint8), "two")
    found = confident_mistakes(bundle.manifest, several, answers[:2])
    assert [(one.said, one.right) for one in found] == [
        ("misses red 0.0%", "blue, red"),
        ("adds blue 60.0%", "nothing"),
    ]


def test_classes_most_often_mixed_up(bundle: Bundle) -> None:
    quality = bundle.manifest.quality[0].model_copy(
        update={"confusion": ((3, 1, 0), (0, 4, 0), (4, 0, 4))}
    )
    pairs = frequent_confusions(bundle.manifest.labels, quality)
    assert [(one.right, one.predicted, one.images, one.share) for one in pairs] == [
        ("red", "blue", 4, 0.5),
        ("blue", "green", 1, 0.25),
    ]


def test_dollar_signs_are_no_formula(bundle: Bundle) -> None:
    drawing = confusion(("a$_$b", "$x^2$", "c"), bundle.manifest.quality[0])
    assert "a$_$b" in drawing
    assert "$x^2$" in drawing


def test_letters_that_the_font_lacks_are_no_warning(bundle: Bundle) -> None:
    drawing = confusion(("日本語", "हिन्दी", "c"), bundle.manifest.quality[0])
    assert "日本語" in drawing
    assert "हिन्दी" in drawing


@pytest.mark.parametrize("name", sorted(file.stem for file in SHIPPED.glob("*.toml")))
def test_a_recipe_is_read_back(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    (tmp_path / "again.toml").write_text(to_toml(recipe.model_dump(mode="json")))
    assert load_recipe(str(tmp_path / "again.toml")) == recipe
