"""LeNet-5: shared weights in local windows, and maps that shrink by averaging while they multiply.

LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition", 1998.
Three habits of its time are left out, as nearly everywhere since: gain and bias learnt for each
averaged map, the table that connects a map of C3 with some maps of S2 only, and output units
that measure the distance to a drawing of each digit.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from torch import nn

PLANE = 32
"""Side of the paper's input in pixels: digits get a border, so that strokes end inside windows."""


class LeNetParameters(BaseModel):
    """A recipe sets nothing: the paper did."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LeNet(nn.Sequential):
    """Images, normalised, (B, C, H, W) of at most 32 x 32, to logits (B, K)."""

    def __init__(
        self, input_shape: tuple[int, int, int], classes: int, parameters: LeNetParameters
    ) -> None:
        channels, height, width = input_shape
        if max(height, width) > PLANE:
            raise ValueError(
                f"lenet takes images of at most {PLANE} x {PLANE}, these have {height} x {width}"
            )
        down, right = PLANE - height, PLANE - width
        super().__init__(
            # Left, right, top, bottom.
            nn.ZeroPad2d((right // 2, right - right // 2, down // 2, down - down // 2)),
            nn.Conv2d(channels, 6, 5),  # C1: (B, 6, 28, 28)
            nn.Tanh(),
            nn.AvgPool2d(2),  # S2: (B, 6, 14, 14)
            nn.Conv2d(6, 16, 5),  # C3: (B, 16, 10, 10)
            nn.Tanh(),
            nn.AvgPool2d(2),  # S4: (B, 16, 5, 5)
            nn.Conv2d(16, 120, 5),  # C5: (B, 120, 1, 1)
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(120, 84),  # F6: a drawing of a digit had 7 x 12 pixels
            nn.Tanh(),
            nn.Linear(84, classes),
        )
