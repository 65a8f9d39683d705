"""AlexNet, sized for small photos: the network that won ImageNet in 2012.

What it brought: depth that pays, since ReLU does not saturate and a GPU computes it; pooling
windows that overlap; dropout in wide linear layers; crops and mirror images, at test time too.

Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Neural Networks",
2012. Left out: local response normalisation, which did not help its successors (Simonyan and
Zisserman, 2014), and the split over two GPUs. The widths are half of the paper's, and the first
convolution sees every pixel: a stride of 4 would leave 32 x 32 pixels with nothing to look at.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from training.networks.layers import output_side

Width = Annotated[int, Field(ge=1)]


class AlexNetParameters(BaseModel):
    """What a recipe may set under `[network]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    widths: tuple[Width, Width, Width, Width, Width] = (48, 128, 192, 192, 128)
    """Filters of the five convolutions."""
    hidden: Width = 512
    """Units of each of the two linear layers before the last."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    """Before each of these two."""


class AlexNet(nn.Sequential):
    """Images, normalised, (B, C, H, W), to logits (B, K). The sides below are those of 32 x 32."""

    def __init__(
        self, input_shape: tuple[int, int, int], classes: int, parameters: AlexNetParameters
    ) -> None:
        channels, height, width = input_shape
        first, second, third, fourth, fifth = parameters.widths
        hidden = parameters.hidden
        features = fifth * _pooled_thrice(height) * _pooled_thrice(width)
        super().__init__(
            nn.Conv2d(channels, first, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),  # (B, 48, 15, 15); windows of 3 overlap by one pixel
            nn.Conv2d(first, second, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),  # (B, 128, 7, 7)
            nn.Conv2d(second, third, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(third, fourth, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(fourth, fifth, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),  # (B, 128, 3, 3)
            nn.Flatten(),
            nn.Dropout(parameters.dropout),
            nn.Linear(features, hidden),
            nn.ReLU(),
            nn.Dropout(parameters.dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        )
        for layer in self:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                # Signals keep their size through all eight layers (He et al., 2015); the paper's
                # deviation of 0.01 was tuned for other widths.
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


def _pooled_thrice(side: int) -> int:
    """Side of the last maps. Raises: ValueError where nothing is left of them."""
    last = side
    for _ in range(3):
        last = output_side(last, 3, stride=2)
    if last < 1:
        raise ValueError(f"alexnet needs images of 15 pixels a side, these have {side}")
    return last
