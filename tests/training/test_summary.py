"""The closed formulas: against the textbooks' worked examples, and against PyTorch itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import get_model

from training.cli import main
from training.recipe import SHIPPED, load_recipe
from training.summary import Layer, classifier_of, summarise, summarise_recipe

RECIPES = sorted(file.stem for file in SHIPPED.glob("*.toml"))
PLAIN = ("Conv2d", "MaxPool2d", "Linear")
"""What the layers of the plain CNN begin with that are drawn in the textbooks."""


def test_four_layers_on_130_pixels() -> None:
    """It holds where the first convolution has no padding, and pools step by their own size."""
    network = nn.Sequential(
        nn.Conv2d(3, 10, 3), nn.MaxPool2d(4), nn.Conv2d(10, 20, 5, padding=2), nn.MaxPool2d(2)
    )
    rows = summarise(network, (3, 130, 130))
    assert [row.output for row in rows] == [
        (10, 128, 128), (10, 32, 32), (20, 32, 32), (20, 16, 16),
    ]  # fmt: skip
    assert [row.parameters for row in rows] == [3 * 3 * 3 * 10 + 10, 0, 5 * 5 * 10 * 20 + 20, 0]
    assert rows[0].multiply_adds == 3 * 3 * 3 * 10 * 128 * 128


def test_dense_512_to_1024() -> None:
    (row,) = summarise(nn.Linear(512, 1024), (512,))
    assert (row.output, row.parameters, row.multiply_adds) == ((1024,), 525_312, 524_288)


def test_convolution_with_a_stride_of_its_kernel() -> None:
    """One channel to 16 maps, windows of 2 x 2 side by side on 200 x 200."""
    (row,) = summarise(nn.Conv2d(1, 16, 2, stride=2), (1, 200, 200))
    assert (row.output, row.parameters) == ((16, 100, 100), 2 * 2 * 1 * 16 + 16)


def test_cats_vs_dogs_is_the_network_of_the_courses() -> None:
    rows = summarise_recipe(load_recipe("cats-vs-dogs"))
    layers = [row for row in rows if row.kind.startswith(PLAIN)]
    assert [(row.output, row.parameters) for row in layers] == [
        ((16, 148, 148), 448), ((16, 74, 74), 0),
        ((32, 72, 72), 4_640), ((32, 36, 36), 0),
        ((32, 34, 34), 9_248), ((32, 17, 17), 0),
        ((64, 15, 15), 18_496), ((64, 7, 7), 0),
        ((512,), 1_606_144), ((1,), 513),
    ]  # fmt: skip
    assert sum(row.parameters for row in rows) == 1_639_489


def test_digits_take_two_convolutions_and_one_hidden_layer() -> None:
    rows = summarise_recipe(load_recipe("mnist-cnn"))
    layers = [row for row in rows if row.kind.startswith(PLAIN)]
    assert [row.output for row in layers] == [
        (32, 28, 28), (32, 14, 14), (64, 14, 14), (64, 7, 7), (128,), (10,),
    ]  # fmt: skip


def test_clothes_take_three_stages_and_one_linear_layer() -> None:
    rows = summarise_recipe(load_recipe("fashion-cnn"))
    layers = [row for row in rows if row.kind.startswith(PLAIN)]
    assert [(row.output, row.parameters) for row in layers] == [
        ((16, 28, 28), 416), ((16, 14, 14), 0),
        ((32, 14, 14), 12_832), ((32, 7, 7), 0),
        ((64, 7, 7), 51_264), ((64, 3, 3), 0),
        ((10,), 5_770),
    ]  # fmt: skip


def require_agreement(network: nn.Module, shape: tuple[int, ...], rows: list[Layer]) -> None:
    """Hold a summary against what PyTorch gives for an image."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path, module in network.eval().named_modules():
        module.register_forward_hook(
            lambda _, __, output, path=path: shapes.update({path: tuple(output.shape[1:])})
        )
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *shape))
    assert {row.name: row.output for row in rows} == {row.name: shapes[row.name] for row in rows}
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in network.parameters())
    # A multiply-add is two operations to PyTorch.
    assert 2 * sum(row.multiply_adds for row in rows) == counter.get_total_flops()


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_s_summary_is_what_pytorch_computes(name: str) -> None:
    classifier, shape = classifier_of(load_recipe(name))
    require_agreement(classifier.network, shape, summarise_recipe(load_recipe(name)))


@pytest.mark.parametrize(
    "name", ["resnet50", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny"]
)
def test_networks_of_others_are_summarised_too(name: str) -> None:
    rows = summarise(get_model(name, weights=None), (3, 64, 64))
    require_agreement(get_model(name, weights=None), (3, 64, 64), rows)


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "mnist-lenet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["layer", "kind", "output", "parameters", "multiply-adds"]
    assert " ".join(lines[2].split()) == "1 Conv2d 5 x 5, 6 28 x 28 x 6 156 117,600"
    assert lines[-1].split()[:2] == ["total", "61,706"]
    assert main(["summary", "image-folder", "--classes", "7"]) == 0
    assert capsys.readouterr().out.count("Linear 7") == 1
    assert main(["summary", "mnist-cnn", "--set", "network.filters=[8, 8, 8, 8, 8]"]) == 2
