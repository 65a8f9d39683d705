"""Capsules with dynamic routing: groups of units whose direction says how a thing looks, and whose
length says whether it is there.

A convolution finds strokes, a second one turns every place of its map into capsules, and each of
these predicts the capsule of each class. Routing lets through the predictions that agree.

Sabour, Frosst, Hinton, "Dynamic Routing Between Capsules", 2017; its reconstruction of the input,
a regulariser, is left out.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

Count = Annotated[int, Field(ge=1)]

STRIDE = 2
"""Of the convolution that makes the first capsules."""


class CapsNetParameters(BaseModel):
    """What a recipe may set under `[network]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    filters: Count = 64
    """Of the first convolution; the paper has 256."""
    kernel: Annotated[int, Field(ge=1, le=15)] = 9
    """Side of both convolutions in pixels, which have no padding."""
    capsules: Count = 8
    """Kinds of capsules at each place of the second map; the paper has 32."""
    capsule_size: Count = 8
    """Numbers in each of these."""
    class_size: Count = 16
    """Numbers in the capsule of each class."""
    iterations: Annotated[int, Field(ge=1, le=10)] = 3
    """Of the routing; with 1, every prediction counts the same."""


class CapsNet(nn.Module):
    """Images, normalised, (B, C, H, W), to the lengths (B, K) of the classes' capsules."""

    def __init__(
        self, input_shape: tuple[int, int, int], classes: int, parameters: CapsNetParameters
    ) -> None:
        super().__init__()
        channels, *sides = input_shape
        kernel, size = parameters.kernel, parameters.capsule_size
        if min(sides) < 2 * kernel - 1:
            raise ValueError(
                f"two kernels of {kernel} pixels need images of {2 * kernel - 1} pixels a side, "
                f"these have {sides[0]} x {sides[1]}; choose a smaller kernel"
            )
        height, width = ((side - 2 * kernel + 1) // STRIDE + 1 for side in sides)
        self.strokes = nn.Conv2d(channels, parameters.filters, kernel)
        self.first = nn.Conv2d(parameters.filters, parameters.capsules * size, kernel, STRIDE)
        self.capsule_size = size
        self.route = Routing(
            parameters.capsules * height * width, size, classes,
            parameters.class_size, parameters.iterations,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, K), each between 0 and 1."""
        x = self.first(self.strokes(x).relu())  # (B, capsules*size, H', W')
        first = torch.unflatten(x.flatten(2), 1, (-1, self.capsule_size))  # (B, -1, size, H'*W')
        found = self.route(squash(first.transpose(2, 3).flatten(1, 2)))
        lengths: Tensor = torch.linalg.vector_norm(found, dim=-1)
        return lengths


class Routing(nn.Module):
    """From I capsules of one layer to K of the next, by agreement (the paper's procedure 1)."""

    def __init__(self, inputs: int, size: int, outputs: int, out_size: int, rounds: int) -> None:
        super().__init__()
        # So wide that capsules of the next layer start with lengths that tell the loss something.
        self.predict = nn.Parameter(0.1 * torch.randn(inputs, size, outputs * out_size))
        self.shape = (outputs, out_size)
        self.rounds = rounds

    def forward(self, capsules: Tensor) -> Tensor:
        """(B, I, size) to (B, K, out_size)."""
        predicted = torch.matmul(capsules.transpose(0, 1), self.predict)  # (I, B, K*out_size)
        predicted = torch.unflatten(predicted, -1, self.shape)
        predicted = predicted.permute(1, 2, 0, 3)  # (B, K, I, out_size)
        fixed = predicted.detach()  # votes are inferred for each image anew, not learnt
        votes = torch.zeros_like(fixed[..., :1])  # (B, K, I, 1)
        for _ in range(self.rounds - 1):
            votes = votes + fixed @ _combine(fixed, votes).transpose(2, 3)
        return _combine(predicted, votes).squeeze(2)

    def multiply_adds(self, input_shape: tuple[int, ...]) -> int:
        """For one image of capsules (I, size): predicting, then weighing and comparing by turns."""
        predicted = input_shape[0] * self.predict.shape[2]
        return predicted * input_shape[1] + predicted * (2 * self.rounds - 1)


def squash(vectors: Tensor) -> Tensor:
    """Shrink vectors (..., D) to lengths below 1: short ones to nothing, long ones to nearly 1.

    A vector of zeros stays one, and so does its gradient: there, PyTorch's norm has gradient 0.
    """
    length: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors * (length / (1 + length.square()))


def _combine(predicted: Tensor, votes: Tensor) -> Tensor:
    """Predictions (B, K, I, D), weighted by the softmax of votes over K, to (B, K, 1, D)."""
    return squash(votes.softmax(dim=1).transpose(2, 3) @ predicted)
