"""The multi-layer perceptron: every pixel connected with every unit, blind to which are neighbours.

Rumelhart, Hinton, Williams, "Learning representations by back-propagating errors", 1986.
Dropout: Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov, 2014.
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from training.networks.layers import ACTIVATIONS, Activation

Units = Annotated[int, Field(ge=1)]


class MlpParameters(BaseModel):
    """What a recipe may set under `[network]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: Annotated[tuple[Units, ...], Field(min_length=1)] = (512, 256)
    """Units of each hidden layer."""
    activation: Activation = "relu"
    """After every hidden layer."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    """After every hidden layer."""


class Mlp(nn.Sequential):
    """Images, normalised, (B, C, H, W), to logits (B, K)."""

    def __init__(
        self, input_shape: tuple[int, int, int], classes: int, parameters: MlpParameters
    ) -> None:
        units = math.prod(input_shape)
        layers: list[nn.Module] = [nn.Flatten()]
        for hidden in parameters.hidden:
            layers += [nn.Linear(units, hidden), ACTIVATIONS[parameters.activation]()]
            layers.append(nn.Dropout(parameters.dropout))
            units = hidden
        super().__init__(*layers, nn.Linear(units, classes))
