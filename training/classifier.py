"""What is trained and exported: a network with the preprocessing that belongs to its weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convoy.imaging import InputSpec
from training.datasets.base import Statistics, channel_statistics
from training.networks import Prepared, Pretrained, make_network
from training.objectives import make_objective
from training.recipe import Recipe


class Classifier(nn.Module):
    """A recipe's network, fed with pixels as they are decoded."""

    mean: Tensor
    std: Tensor

    def __init__(self, recipe: Recipe, spec: InputSpec, classes: int) -> None:
        super().__init__()
        shape = (spec.channels, spec.height, spec.width)
        self.objective = make_objective(recipe)
        self.network = make_network(recipe.network, shape, self.objective.outputs(classes))
        self.mirror_averaging = recipe.mirror_averaging
        self.register_buffer("mean", torch.zeros(1, spec.channels, 1, 1))
        self.register_buffer("std", torch.ones(1, spec.channels, 1, 1))
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) to the outputs (B, O) that the objective reads."""
        x = self.normalise(images)
        if self.training or not self.mirror_averaging:
            outputs: Tensor = self.network(x)
            return outputs
        # One batch of both, not two passes: the exported graph then holds the network once.
        both: Tensor = self.network(torch.cat([x, x.flip(-1)]))
        return both.reshape(2, -1, both.shape[1]).mean(dim=0)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 to zero mean and unit deviation per channel."""
        return (images.float() / 255.0 - self.mean) / self.std

    def prepare(self, images: Tensor, statistics: Statistics | None = None) -> None:
        """Set what is measured on training images (N, C, H, W) instead of learnt.

        `images` may be a sample, where the statistics are of all.
        """
        if statistics is None:
            statistics = channel_statistics(images.permute(0, 2, 3, 1).numpy())
        mean, std = (self.mean.new_tensor(values) for values in statistics)
        self.mean.copy_(mean.reshape(1, -1, 1, 1))
        # 0.01 keeps a channel that is constant over the whole set from dividing by zero.
        self.std.copy_(std.clamp_min(0.01).reshape(1, -1, 1, 1))
        if isinstance(self.network, Prepared):
            self.network.prepare(self.normalise(images))

    def load_pretrained(self) -> None:
        """Start from the weights that the recipe names, if any, and from the scale of the pixels
        that these are used to. Raises: TrainingError where they cannot be had."""
        network = self.network
        if isinstance(network, Pretrained) and network.pretrained:
            network.load_pretrained()
            self.mean.copy_(torch.tensor(network.mean).reshape(self.mean.shape))
            self.std.copy_(torch.tensor(network.std).reshape(self.std.shape))

    def begin_epoch(self, epoch: int) -> bool:
        """Set what learns in an epoch, from 1; returns whether that has changed."""
        return isinstance(self.network, Pretrained) and self.network.begin_epoch(epoch)
