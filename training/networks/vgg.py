"""VGG, sized for small photos: depth out of one simple brick.

What it brought: only 3 x 3 convolutions, in pairs. Two of them see 5 x 5 pixels with 18 weights a
channel where one 5 x 5 has 25, and with two ReLU in between; where 2 x 2 pooling halves the side,
the filters double. Three linear layers end it.

Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2014.
Batch normalisation, a year younger, stands behind each convolution: without it the authors had to
start deep networks from the weights of shallow ones.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

Width = Annotated[int, Field(ge=1)]


class VggParameters(BaseModel):
    """What a recipe may set under `[network]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    widths: Annotated[tuple[Width, ...], Field(min_length=1)] = (32, 64, 128, 256)
    """Filters of each stage; every stage halves the side."""
    convolutions: Width = 2
    """In each stage."""
    hidden: Width = 256
    """Units of each of the two linear layers before the last."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    """After each of these two."""


class Vgg(nn.Sequential):
    """Images, normalised, (B, C, H, W), to logits (B, K)."""

    def __init__(
        self, input_shape: tuple[int, int, int], classes: int, parameters: VggParameters
    ) -> None:
        channels, height, width = input_shape
        shrink = 2 ** len(parameters.widths)
        if min(height, width) < shrink:
            raise ValueError(
                f"{len(parameters.widths)} stages of widths need images of {shrink} pixels a side, "
                f"these have {height} x {width}; leave stages out"
            )
        layers: list[nn.Module] = []
        for filters in parameters.widths:
            for _ in range(parameters.convolutions):
                layers += _convolution(channels, filters)
                channels = filters
            layers.append(nn.MaxPool2d(2))
        features = channels * (height // shrink) * (width // shrink)
        super().__init__(
            *layers,
            nn.Flatten(),
            *_linear(features, parameters.hidden, parameters.dropout),
            *_linear(parameters.hidden, parameters.hidden, parameters.dropout),
            nn.Linear(parameters.hidden, classes),
        )


def _convolution(inputs: int, filters: int) -> list[nn.Module]:
    """(B, inputs, H, W) to (B, filters, H, W)."""
    # No bias: the normalisation has one.
    conv = nn.Conv2d(inputs, filters, 3, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(filters), nn.ReLU()]


def _linear(inputs: int, outputs: int, dropout: float) -> list[nn.Module]:
    """(B, inputs) to (B, outputs)."""
    return [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(dropout)]
