"""The CNN of the textbooks: stages of convolution, activation and pooling, then linear layers."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from training.networks.layers import ACTIVATIONS, Activation, output_side

Filters = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=1, le=15)]

POOLINGS: dict[str, type[nn.MaxPool2d] | type[nn.AvgPool2d]] = {
    "max": nn.MaxPool2d,
    "average": nn.AvgPool2d,
}


class CnnParameters(BaseModel):
    """What a recipe may set under `[network]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    filters: Annotated[tuple[Filters, ...], Field(min_length=1)] = (32, 64, 128)
    """Of each stage."""
    kernel: Side = 3
    """Side of the convolutions in pixels."""
    stride: Side = 1
    """Step of the convolutions in pixels."""
    borders: Literal["zero", "replicate", "valid"] = "zero"
    """What a convolution sees beyond the border: zeros, the border again, or it stays inside."""
    padding: Annotated[int, Field(ge=0, le=15)] | None = None
    """Pixels that it sees there; by default half the kernel: a stride of 1 then keeps the size."""
    activation: Activation = "relu"
    """After every convolution and after the hidden layer."""
    pooling: Literal["max", "average"] = "max"
    pool_size: Side = 2
    """Side of the pooled squares, which do not overlap; 1 leaves pooling out."""
    hidden: Annotated[int, Field(ge=0)] = 128
    """Units of a linear layer before the last; 0 leaves it out."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.25
    """Before each linear layer."""

    @model_validator(mode="after")
    def _padding_fits(self) -> Self:
        if self.borders == "valid" and self.padding:
            raise ValueError("borders = 'valid' has no padding: leave one of the two out")
        if self.kernel % 2 == 0 and self.borders != "valid" and self.padding is None:
            raise ValueError(
                "an even kernel has no centre: make it odd, set padding, or borders = 'valid'"
            )
        return self

    @property
    def margin(self) -> int:
        """Pixels around the image."""
        if self.borders == "valid":
            return 0
        return self.kernel // 2 if self.padding is None else self.padding


class Cnn(nn.Sequential):
    """Images, normalised, (B, C, H, W), to logits (B, K)."""

    def __init__(
        self, input_shape: tuple[int, int, int], classes: int, parameters: CnnParameters
    ) -> None:
        channels, height, width = input_shape
        activation = ACTIVATIONS[parameters.activation]
        layers: list[nn.Module] = []
        for filters in parameters.filters:
            layers += _stage(channels, filters, parameters)
            channels = filters
        features = channels * _last_side(height, parameters) * _last_side(width, parameters)
        layers.append(nn.Flatten())
        if parameters.hidden:
            layers += [nn.Dropout(parameters.dropout), nn.Linear(features, parameters.hidden)]
            layers.append(activation())
            features = parameters.hidden
        layers += [nn.Dropout(parameters.dropout), nn.Linear(features, classes)]
        super().__init__(*layers)


def _stage(inputs: int, filters: int, parameters: CnnParameters) -> list[nn.Module]:
    """(B, inputs, H, W) to (B, filters, H', W')."""
    conv = nn.Conv2d(
        inputs,
        filters,
        parameters.kernel,
        stride=parameters.stride,
        padding=parameters.margin,
        padding_mode="replicate" if parameters.borders == "replicate" else "zeros",
    )
    layers = [conv, ACTIVATIONS[parameters.activation]()]
    if parameters.pool_size > 1:
        layers.append(POOLINGS[parameters.pooling](parameters.pool_size))
    return layers


def _last_side(side: int, parameters: CnnParameters) -> int:
    """Side of the last stage's maps. Raises: ValueError where nothing is left of them."""
    last, pool = side, parameters.pool_size
    for stage in range(1, len(parameters.filters) + 1):
        last = output_side(
            last, parameters.kernel, padding=parameters.margin, stride=parameters.stride
        )
        last = output_side(last, pool, stride=pool)
        if last < 1:
            raise ValueError(
                f"stage {stage} of {len(parameters.filters)} leaves nothing of images of {side} "
                "pixels a side; leave stages out"
            )
    return last
