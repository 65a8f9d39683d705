"""The shipped model's network: a whitened stem and three conv groups, after airbench94.

Nearly all of its work is in 3 x 3 convolutions on small maps: 0.12 G multiply-adds and 2 M
parameters an image of 32 x 32, of which pooling before normalising leaves little else to do.

Keller Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

STEM = 2
"""Side of the stem's patches in pixels."""


class FastParameters(BaseModel):
    """What a recipe may set under `[network]`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    widths: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (64, 128, 256)
    """Filters of each group; every group halves the side."""
    logit_scale: Annotated[float, Field(gt=0.0)] = 1 / 9
    """Keeps the first losses small, so that a high learning rate is bearable from the start."""


class Group(nn.Module):
    """A widening convolution, pooled before it is normalised, and a residual pair."""

    def __init__(self, inputs: int, filters: int) -> None:
        super().__init__()
        self.widen = _conv(inputs, filters)
        self.pool = nn.MaxPool2d(2)
        self.refine = _conv(filters, filters)
        self.combine = _conv(filters, filters)
        self.norms = nn.ModuleList(nn.BatchNorm2d(filters) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, S, S) to (B, filters, S/2, S/2)."""
        x = F.gelu(self.norms[0](self.pool(self.widen(x))))
        y = F.gelu(self.norms[1](self.refine(x)))
        return F.gelu(x + self.norms[2](self.combine(y)))


class Fast(nn.Module):
    """Images, normalised, (B, C, H, W), to logits (B, K)."""

    def __init__(
        self, input_shape: tuple[int, int, int], classes: int, parameters: FastParameters
    ) -> None:
        super().__init__()
        channels, height, width = input_shape
        need = 2 ** len(parameters.widths) + STEM - 1
        if min(height, width) < need:
            raise ValueError(
                f"{len(parameters.widths)} groups of widths need images of {need} pixels a side, "
                f"these have {height} x {width}; leave groups out"
            )
        # Both signs of every eigenvector of a patch.
        stem_filters = 2 * channels * STEM**2
        self.stem = nn.Conv2d(channels, stem_filters, STEM, bias=False)
        # `prepare` sets it once and for all; nothing below needs gradients then.
        self.stem.weight.requires_grad_(False)
        widths = (stem_filters, *parameters.widths)
        self.groups = nn.Sequential(*(Group(before, after) for before, after in pairwise(widths)))
        self.classify = nn.Linear(widths[-1], classes, bias=False)
        self.logit_scale = parameters.logit_scale

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, K)."""
        x = self.groups(F.gelu(self.stem(x)))
        logits: Tensor = self.classify(x.amax(dim=(2, 3)))
        return logits * self.logit_scale

    @torch.no_grad()
    def prepare(self, images: Tensor) -> None:
        """Set the stem to whiten the patches of `images` (N, C, H, W), normalised.

        Decorrelated input lets the layers above learn at once instead of first undoing the
        correlation of neighbouring pixels.
        """
        patches = F.unfold(images, STEM)  # (N, C*4, L)
        patches = patches.movedim(1, 2).reshape(-1, patches.shape[1])
        values, vectors = torch.linalg.eigh(torch.cov(patches.double().T))
        # 5e-4 bounds the gain of the directions that hold little but noise.
        whiten = (vectors / (values + 5e-4).sqrt()).T.reshape(-1, *self.stem.weight.shape[1:])
        self.stem.weight.copy_(torch.cat([whiten, -whiten]))


def _conv(inputs: int, filters: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, filters, 3, padding="same", bias=False)
    # Starts as the identity on the first filters: gradients pass from the first step on.
    nn.init.dirac_(conv.weight[:inputs] if filters > inputs else conv.weight)
    return conv
