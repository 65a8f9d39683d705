"""Temperature scaling: probabilities that are as high as the model is often right.

Logits are divided by one number, fitted on the validation images, so no label changes. Guo et al.,
"On Calibration of Modern Neural Networks", 2017.
"""

from __future__ import annotations

from math import exp, log

import torch
from torch import Tensor

from training.objectives import make_objective
from training.recipe import Recipe

RANGE = (0.05, 20.0)
"""Temperatures of networks are between 0.3 and 5; beyond this the search gives up."""

HALVINGS = 40
"""Of the range of logarithms: leaves 1e-11 of it."""


def fit_temperature(recipe: Recipe, outputs: Tensor, targets: Tensor) -> float:
    """The temperature that makes the validation targets most likely.

    `outputs` float (N, O) and `targets` are what the recipe's objective reads. Its loss is smoothed
    as if one image of N + 1 were of a class drawn by chance: a network that makes no mistake on a
    small validation set would otherwise be told to be infinitely sure.
    """
    smoothing = 1 / (len(targets) + 1)
    objective = make_objective(recipe.model_copy(update={"label_smoothing": smoothing}))
    logits = outputs.double()

    def rises(inverse: float) -> bool:
        scale = torch.tensor(inverse, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(objective.loss(logits * scale, targets), scale)
        return slope.item() > 0

    # The loss is convex in the inverse temperature, so its slope changes its sign only once.
    low, high = (-log(temperature) for temperature in reversed(RANGE))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if rises(exp(middle)) else (middle, high)
    return exp(-(low + high) / 2)
