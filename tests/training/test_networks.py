"""Networks: the shapes and the parameters of the textbooks, and every option of the plain CNN."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training.errors import TrainingError
from training.networks import make_network
from training.networks.resnet import Block
from training.recipe import Network, load_recipe

OPTIONS: list[dict[str, object]] = [
    *({"activation": name} for name in ("relu", "sigmoid", "tanh", "gelu", "elu")),
    {"pooling": "average", "pool_size": 3},
    {"stride": 2, "pool_size": 1},
    *({"borders": name} for name in ("zero", "replicate", "valid")),
    {"hidden": 0},
    {"kernel": 2, "padding": 1},
    {"padding": 0},
]


def make(name: str, shape: tuple[int, int, int], **parameters: object) -> nn.Module:
    return make_network(Network.model_validate({"name": name, **parameters}), shape, 10)


def parameters_of(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_of_the_plain_cnn_gives_logits(options: dict[str, object]) -> None:
    network = make("cnn", (3, 32, 30), filters=[4, 8], hidden=options.pop("hidden", 5), **options)
    assert network(torch.rand(2, 3, 32, 30)).shape == (2, 10)


def test_borders_of_the_plain_cnn() -> None:
    """A kernel of ones over an image of ones: how much each way of padding adds at the corner."""
    corners = {}
    for borders in ("zero", "replicate", "valid"):
        conv = next(make("cnn", (1, 6, 6), filters=[1], borders=borders).children())
        assert isinstance(conv, nn.Conv2d)
        nn.init.ones_(conv.weight)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        answer = conv(torch.ones(1, 1, 6, 6))
        corners[borders] = (answer.shape[-1], answer[0, 0, 0, 0].item())
    assert corners == {"zero": (6, 4.0), "replicate": (6, 9.0), "valid": (4, 9.0)}


def test_an_even_kernel_needs_valid_borders() -> None:
    with pytest.raises(TrainingError, match="an even kernel has no centre"):
        make("cnn", (3, 32, 32), kernel=2)
    assert make("cnn", (3, 32, 32), kernel=2, borders="valid")
    with pytest.raises(TrainingError, match="borders = 'valid' has no padding"):
        make("cnn", (3, 32, 32), padding=1, borders="valid")


def test_padding_of_the_plain_cnn() -> None:
    """Sides of 1 + (W - F + 2P) / S; half the kernel keeps them."""
    sides = []
    for padding in (None, 0, 1, 4):
        conv = next(make("cnn", (1, 9, 9), filters=[1], kernel=5, padding=padding).children())
        sides.append(conv(torch.ones(1, 1, 9, 9)).shape[-1])
    assert sides == [9, 5, 7, 13]


def test_the_plain_cnn_ends_in_as_many_linear_layers_as_wanted() -> None:
    for hidden, linear in ((0, 1), (7, 2)):
        network = make("cnn", (3, 32, 32), hidden=hidden)
        assert sum(isinstance(layer, nn.Linear) for layer in network) == linear  # type: ignore[attr-defined]


def test_lenet_has_the_weights_of_the_paper() -> None:
    """61,706 with C3 fully connected and a linear output; digits of 28 x 28 or 32 x 32 alike."""
    assert parameters_of(make("lenet", (1, 28, 28))) == 61_706
    assert make("lenet", (1, 32, 32))(torch.rand(2, 1, 32, 32)).shape == (2, 10)
    with pytest.raises(TrainingError, match="lenet takes images of at most 32 x 32"):
        make("lenet", (1, 40, 32))


def test_mlp_connects_every_pixel() -> None:
    network = make_network(load_recipe("mnist-mlp").network, (1, 28, 28), 10)
    assert parameters_of(network) == 785 * 512 + 513 * 256 + 257 * 10


@pytest.mark.parametrize("name", ["alexnet", "resnet", "vgg"])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 36, 50)], ids=str)
def test_the_winners_of_imagenet_take_images_of_any_shape(
    name: str, shape: tuple[int, int, int]
) -> None:
    assert make(name, shape)(torch.rand(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "message"), [("alexnet", "15 pixels"), ("vgg", "leave stages out")]
)
def test_images_too_small_to_pool_are_refused(name: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        make(name, (3, 14, 14))


def test_a_block_of_resnet_adds_its_change_to_what_came_in() -> None:
    block = Block(4, 4, stride=1).eval()
    x = torch.rand(2, 4, 6, 6)
    torch.testing.assert_close(block(x), (x + block.change(x)).relu())
    assert Block(4, 8, stride=2)(x).shape == (2, 8, 3, 3)
