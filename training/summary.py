"""A network layer by layer: what comes out, and what it costs in weights and in work.

Every figure of a layer comes from its closed formula, not from running it: a convolution of K
filters, F x F pixels on D channels, with stride S and padding P, gives sides of
1 + (W - F + 2P) / S, and has K F F D + K parameters. Only what stands between the layers, sums
and reshaping, is followed on tensors that have a shape and no content.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from convoy.imaging import InputSpec
from training.classifier import Classifier
from training.datasets import SOURCES
from training.networks.layers import output_side
from training.recipe import Recipe

Shape = tuple[int, ...]
"""Of one image's values: channels, height, width; or units."""


class Layer(NamedTuple):
    """A row of the summary."""

    name: str
    """Where it stands in the network, dotted."""
    kind: str
    output: Shape
    parameters: int
    """0 where an earlier row has them already."""
    multiply_adds: int
    """For one image. What is done element by element, as in normalisation, counts as none."""


class Cost(NamedTuple):
    """What the formula of a layer gives."""

    output: Shape
    parameters: int = 0
    multiply_adds: int = 0


@runtime_checkable
class Counted(Protocol):
    """A module with weights of its own that are in none of the layers below."""

    def multiply_adds(self, input_shape: Shape) -> int:
        """What it does with one image itself."""


# ------------------------------------------------------------------ the formulas


def convolution(layer: nn.Conv2d, shape: Shape) -> Cost:
    """K F F D + K parameters, all but the biases used at every place of the output."""
    outputs, depth = layer.out_channels, layer.in_channels // layer.groups
    weights = outputs * depth * math.prod(layer.kernel_size)
    # "same" is whatever keeps the size at a stride of 1.
    sides = shape[1:] if layer.padding == "same" else window_sides(layer, shape)
    biases = outputs if layer.bias is not None else 0
    return Cost((outputs, *sides), weights + biases, weights * math.prod(sides))


def pooling(layer: nn.MaxPool2d | nn.AvgPool2d, shape: Shape) -> Cost:
    """As a convolution of every channel by itself, without weights."""
    return Cost((shape[0], *window_sides(layer, shape)))


def window_sides(layer: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d, shape: Shape) -> Shape:
    """Height and width of what a sliding window gives."""
    kernel, stride, padding, dilation = (
        _pair(getattr(layer, key, 1)) for key in ("kernel_size", "stride", "padding", "dilation")
    )
    return tuple(
        output_side(side, gap * (window - 1) + 1, padding=border, stride=step)
        for side, window, step, border, gap in zip(
            shape[1:], kernel, stride, padding, dilation, strict=True
        )
    )


def linear(layer: nn.Linear, shape: Shape) -> Cost:
    """N M + M parameters."""
    weights = layer.in_features * layer.out_features
    biases = layer.out_features if layer.bias is not None else 0
    output = (*shape[:-1], layer.out_features)
    return Cost(output, weights + biases, weights * math.prod(shape[:-1]))


def normalisation(layer: nn.BatchNorm2d, shape: Shape) -> Cost:
    """A gain and a bias for each channel."""
    return Cost(shape, 2 * layer.num_features if layer.affine else 0)


def layer_normalisation(layer: nn.LayerNorm, shape: Shape) -> Cost:
    """A gain and a bias for each place that is normalised together."""
    places = math.prod(layer.normalized_shape)
    return Cost(shape, 2 * places if layer.elementwise_affine else 0)


def mean_pooling(layer: nn.AdaptiveAvgPool2d, shape: Shape) -> Cost:
    """The sides are what it was asked for."""
    return Cost((shape[0], *_pair(layer.output_size)))


def border(layer: nn.ZeroPad2d, shape: Shape) -> Cost:
    """The sides grow."""
    left, right, top, bottom = layer.padding
    return Cost((shape[0], shape[1] + top + bottom, shape[2] + left + right))


def flatten(layer: nn.Flatten, shape: Shape) -> Cost:
    """One number after the other."""
    return Cost((math.prod(shape),))


def unchanged(layer: nn.Module, shape: Shape) -> Cost:
    """Element by element."""
    return Cost(shape)


FORMULAS: dict[type[nn.Module], Callable[[Any, Shape], Cost]] = {
    nn.Conv2d: convolution,
    nn.MaxPool2d: pooling,
    nn.AvgPool2d: pooling,
    nn.AdaptiveAvgPool2d: mean_pooling,
    nn.Linear: linear,
    nn.BatchNorm2d: normalisation,
    nn.LayerNorm: layer_normalisation,
    nn.ZeroPad2d: border,
    nn.Flatten: flatten,
    nn.Dropout: unchanged,
    nn.Identity: unchanged,
    **dict.fromkeys((nn.ReLU, nn.Sigmoid, nn.Tanh, nn.GELU, nn.ELU), unchanged),
    **dict.fromkeys((nn.ReLU6, nn.SiLU, nn.Hardswish, nn.Hardsigmoid), unchanged),
}
"""A network's own modules need no row: their layers have."""


# ------------------------------------------------------------------ the walk


def summarise(network: nn.Module, input_shape: Shape) -> list[Layer]:
    """The layers in the order in which an image of (C, H, W) passes them.

    The network is used up: its weights go, and its layers answer with shapes from then on.
    """
    network = network.to("meta").eval()
    rows: list[Layer] = []
    for name, module in list(network.named_modules()):
        if formula := _formula(module):
            module.forward = _follow(name, module, formula, rows)
        elif list(module.parameters(recurse=False)):
            module.register_forward_hook(_own_weights(name, rows))
    with torch.no_grad():
        network(torch.empty((1, *input_shape), device="meta"))
    return rows


def _formula(module: nn.Module) -> Callable[[Any, Shape], Cost] | None:
    """That of its class, or of the nearest one that it is derived from."""
    return next((FORMULAS[cls] for cls in type(module).__mro__ if cls in FORMULAS), None)


def _follow(
    name: str, module: nn.Module, formula: Callable[[Any, Shape], Cost], rows: list[Layer]
) -> Callable[[Tensor], Tensor]:
    """What a layer does instead of computing: write its row, and answer with the shape."""

    def forward(x: Tensor) -> Tensor:
        cost = formula(module, tuple(x.shape[1:]))
        seen = any(row.name == name for row in rows)
        rows.append(Layer(name, _kind(module), *cost._replace(parameters=0) if seen else cost))
        return x.new_empty((len(x), *cost.output))

    return forward


def _own_weights(name: str, rows: list[Layer]) -> Callable[[nn.Module, Any, Tensor], None]:
    """Writes the row of a module that is no layer of torch's but holds weights."""

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        parameters = sum(math.prod(weight.shape) for weight in module.parameters(recurse=False))
        shape = tuple(args[0].shape[1:])
        work = module.multiply_adds(shape) if isinstance(module, Counted) else 0
        rows.append(Layer(name, _kind(module), tuple(output.shape[1:]), parameters, work))

    return hook


def _kind(module: nn.Module) -> str:
    """A layer's class and what tells it from others of its class."""
    name = type(module).__name__
    if isinstance(module, nn.Conv2d):
        return f"{name} {_by(module.kernel_size)}, {module.out_channels}" + _stride(module, 1)
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        return f"{name} {_by(_pair(module.kernel_size))}" + _stride(module, module.kernel_size)
    return f"{name} {module.out_features}" if isinstance(module, nn.Linear) else name


def _stride(module: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d, usual: int | Shape) -> str:
    stride = _pair(module.stride)
    return "" if stride == _pair(usual) else f", stride {stride[0]}"


def _pair(value: Any) -> Shape:
    """Torch takes one number for both sides."""
    return (value, value) if isinstance(value, int) else tuple(value)


def _by(sides: Shape) -> str:
    return " x ".join(map(str, sides))


# ------------------------------------------------------------------ as text


def summarise_recipe(recipe: Recipe, classes: int | None = None) -> list[Layer]:
    """The layers of a recipe's network, without its data. Raises: TrainingError."""
    classifier, shape = classifier_of(recipe, classes)
    return summarise(classifier.network, shape)


def classifier_of(recipe: Recipe, classes: int | None = None) -> tuple[Classifier, Shape]:
    """What a recipe would train, and the (C, H, W) of its images, without its data.

    `classes` is for data that alone know how many there are, else two. Raises: TrainingError.
    """
    source, size = SOURCES[recipe.source], recipe.image_size
    photos = InputSpec(height=size, width=size, channels=recipe.channels)
    spec: InputSpec = getattr(source, "spec", photos)
    known = len(getattr(source, "labels", ())) or classes or 2
    return Classifier(recipe, spec, known), (spec.channels, spec.height, spec.width)


def describe_summary(layers: list[Layer], *, mirrored: bool = False) -> str:
    """A table; sizes are height x width x channels, as in the textbooks."""
    rows = [("layer", "kind", "output", "parameters", "multiply-adds")]
    for layer in layers:
        output = _by((*layer.output[1:], layer.output[0]))
        counts = f"{layer.parameters:,}", f"{layer.multiply_adds:,}"
        rows.append((layer.name, layer.kind, output, *counts))
    parameters = sum(layer.parameters for layer in layers)
    work = sum(layer.multiply_adds for layer in layers)
    rows.append(("total", "", "", f"{parameters:,}", f"{work:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([*(f"{cell:<{width}}" for cell, width in zip(row[:3], widths, strict=False)),
                   *(f"{cell:>{width}}" for cell, width in zip(row[3:], widths[3:], strict=True))])
        for row in rows
    ]  # fmt: skip
    if mirrored:
        lines.append(f"twice for an image and its mirror image: {2 * work:,} multiply-adds")
    return "\n".join(lines)
