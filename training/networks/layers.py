"""What several networks share: activations by name, and the side of a map after a window."""

from __future__ import annotations

from typing import Literal

from torch import nn

Activation = Literal["relu", "sigmoid", "tanh", "gelu", "elu"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "elu": nn.ELU,
}


def output_side(side: int, window: int, *, padding: int = 0, stride: int = 1) -> int:
    """Places where a window fits on a padded side: 1 + (W - F + 2P) / S, rounded down.

    Below 1 where it fits nowhere.
    """
    return 1 + (side - window + 2 * padding) // stride
