"""What a network's outputs mean: the loss they are trained by, the probabilities they give.

One table, chosen by a recipe's `objective`. Targets are class indices int64 (B), or, where several
labels may be right at once, 0 and 1 of uint8 (B, K).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from training.errors import TrainingError
from training.recipe import Recipe


class Objective(ABC):
    """How to learn from outputs (B, outputs) and to read them."""

    logits: ClassVar[bool] = True
    """Whether the outputs are logits, which a temperature can divide."""

    def __init__(self, recipe: Recipe) -> None:
        self.label_smoothing = recipe.label_smoothing

    def outputs(self, classes: int) -> int:
        """How many numbers an image the network gives. Raises: TrainingError."""
        return classes

    @abstractmethod
    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Of each image by itself, (B)."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean over the batch, a scalar."""
        return self.losses(outputs, targets).mean()

    @abstractmethod
    def probabilities(self, outputs: Tensor) -> Tensor:
        """(B, outputs) to (B, K) between 0 and 1."""

    def right(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Whether each image is classified right: its class, or all of its labels; bool (B)."""
        return self.probabilities(outputs).argmax(dim=1) == targets


class Softmax(Objective):
    """One class of many: cross-entropy."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Of logits (B, K) and indices (B)."""
        return F.cross_entropy(
            outputs, targets, label_smoothing=self.label_smoothing, reduction="none"
        )

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Sum to 1."""
        return outputs.softmax(dim=1)


class Sigmoid(Objective):
    """One of two classes from one output, the logit of the second: binary cross-entropy."""

    def outputs(self, classes: int) -> int:
        """One."""
        if classes != 2:
            raise TrainingError(f"objective: sigmoid needs two classes, the images have {classes}")
        return 1

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Of logits (B, 1) and indices (B)."""
        smooth = self.label_smoothing
        wanted = targets.to(outputs.dtype) * (1 - smooth) + smooth / 2
        return F.binary_cross_entropy_with_logits(outputs.squeeze(1), wanted, reduction="none")

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Of both classes, (B, 2)."""
        second = outputs.sigmoid()
        return torch.cat([1 - second, second], dim=1)


class MultiLabel(Objective):
    """Any number of labels at once: binary cross-entropy for each."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Of logits (B, K) and 0 or 1 (B, K)."""
        smooth = self.label_smoothing
        wanted = targets.to(outputs.dtype) * (1 - smooth) + smooth / 2
        each = F.binary_cross_entropy_with_logits(outputs, wanted, reduction="none")
        return each.mean(dim=1)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Of each label by itself."""
        return outputs.sigmoid()

    def right(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """All labels at a threshold of one half."""
        return ((outputs > 0) == targets.bool()).all(dim=1)


class Margin(Objective):
    """Lengths of capsules, pushed above 0.9 for the class that is there and below 0.1 for others.

    Sabour, Frosst, Hinton, "Dynamic Routing Between Capsules", 2017, equation 4.
    """

    logits = False

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Of lengths (B, K) and indices (B)."""
        present = F.one_hot(targets, outputs.shape[1]).to(outputs.dtype)
        missing = present * F.relu(0.9 - outputs).square()
        # Absent classes weigh half: at the start, shrinking them all would stop the learning.
        excess = 0.5 * (1 - present) * F.relu(outputs - 0.1).square()
        return (missing + excess).sum(dim=1)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """A length is its class's probability; they need not sum to 1."""
        return outputs


OBJECTIVES: dict[str, type[Objective]] = {
    "softmax": Softmax,
    "sigmoid": Sigmoid,
    "multi-label": MultiLabel,
    "margin": Margin,
}


def make_objective(recipe: Recipe) -> Objective:
    """The recipe's objective."""
    return OBJECTIVES[recipe.objective](recipe)
