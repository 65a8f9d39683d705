"""The CNN of the textbooks: stages of convolution, ReLU and max-pool, then dropout and linear."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

Filters = Annotated[int, Field(ge=1)]


class CnnParameters(BaseModel):
    """What a recipe may set under `[network]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    filters: Annotated[tuple[Filters, ...], Field(min_length=1)] = (32, 64, 128)
    """Of each stage; every stage halves the side."""
    kernel: Annotated[int, Field(ge=1, le=15)] = 3
    """Side of the convolutions in pixels; odd."""
    hidden: Annotated[int, Field(ge=1)] | None = 128
    """Units of a linear layer before the last; none leaves it out."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.25
    """Before each linear layer."""


class Cnn(nn.Sequential):
    """Images, normalised, (B, C, H, W), to logits (B, K)."""

    def __init__(
        self, input_shape: tuple[int, int, int], classes: int, parameters: CnnParameters
    ) -> None:
        channels, height, width = input_shape
        shrink = 2 ** len(parameters.filters)
        if min(height, width) < shrink:
            raise ValueError(
                f"{len(parameters.filters)} stages of filters need images of {shrink} pixels "
                f"a side, these have {height} x {width}; leave stages out"
            )
        layers: list[nn.Module] = []
        for filters in parameters.filters:
            layers += _stage(channels, filters, parameters.kernel)
            channels = filters
        layers.append(nn.Flatten())
        features = channels * (height // shrink) * (width // shrink)
        if parameters.hidden is not None:
            layers += [nn.Dropout(parameters.dropout), nn.Linear(features, parameters.hidden)]
            layers.append(nn.ReLU())
            features = parameters.hidden
        layers += [nn.Dropout(parameters.dropout), nn.Linear(features, classes)]
        super().__init__(*layers)


def _stage(inputs: int, filters: int, kernel: int) -> list[nn.Module]:
    """(B, inputs, S, S) to (B, filters, S/2, S/2)."""
    conv = nn.Conv2d(inputs, filters, kernel, padding="same")
    return [conv, nn.ReLU(), nn.MaxPool2d(2)]
