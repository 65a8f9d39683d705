"""ResNet, sized for small photos: layers that only learn what to change.

What it brought: a skip connection around each pair of convolutions. The sum leaves gradients a way
past every layer, so that more layers no longer train worse; batch normalisation behind every
convolution, a stride instead of pooling, and the mean over the last maps instead of wide linear
layers.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015, section 4.2.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

Width = Annotated[int, Field(ge=1)]


class ResNetParameters(BaseModel):
    """What a recipe may set under `[network]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    widths: Annotated[tuple[Width, ...], Field(min_length=1)] = (16, 32, 64)
    """Filters of each stage; every stage but the first halves the side."""
    blocks: Annotated[int, Field(ge=1)] = 3
    """Pairs of convolutions in each stage."""


class Block(nn.Module):
    """Two convolutions and the way around them."""

    def __init__(self, inputs: int, filters: int, stride: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.Conv2d(inputs, filters, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(filters),
            nn.ReLU(),
            nn.Conv2d(filters, filters, 3, padding=1, bias=False),
            nn.BatchNorm2d(filters),
        )
        # The input itself, or where the shapes differ its projection (the paper's option B).
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or inputs != filters:
            self.skip = nn.Sequential(
                nn.Conv2d(inputs, filters, 1, stride=stride, bias=False), nn.BatchNorm2d(filters)
            )
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, S, S) to (B, filters, S/stride, S/stride)."""
        activated: Tensor = self.activation(self.skip(x) + self.change(x))
        return activated


class ResNet(nn.Sequential):
    """Images, normalised, (B, C, H, W), to logits (B, K)."""

    def __init__(
        self, input_shape: tuple[int, int, int], classes: int, parameters: ResNetParameters
    ) -> None:
        first, last = parameters.widths[0], parameters.widths[-1]
        blocks = [Block(first, first, 1) for _ in range(parameters.blocks)]
        for before, after in pairwise(parameters.widths):
            blocks.append(Block(before, after, 2))
            blocks += [Block(after, after, 1) for _ in range(parameters.blocks - 1)]
        super().__init__(
            nn.Conv2d(input_shape[0], first, 3, padding=1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
            *blocks,
            nn.AdaptiveAvgPool2d(1),  # the mean of every map
            nn.Flatten(),
            nn.Linear(last, classes),
        )
