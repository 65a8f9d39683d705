"""Batch normalisation over the images of all processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SharedBatchNorm(nn.BatchNorm2d):
    """Mean and variance are of the whole batch, however many processes it is cut up among.

    PyTorch's SyncBatchNorm does the same on CUDA only; this is for the rest.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        if not self.training:
            return super().forward(x)
        dtype, x = x.dtype, x.float()  # sums of many numbers need the precision
        size = x.new_tensor([x.numel() / x.shape[1]])
        sums: Tensor = SumOverProcesses.apply(torch.cat([x.sum(dim=(0, 2, 3)), size]))
        count = sums[-1].detach()
        mean = (sums[:-1] / count).reshape(1, -1, 1, 1)
        squares: Tensor = SumOverProcesses.apply((x - mean).square().sum(dim=(0, 2, 3)))
        variance = squares / count
        self._remember(mean.detach().flatten(), variance.detach() * count / (count - 1))
        scale = (variance + self.eps).rsqrt() * self.weight
        normalised = (x - mean) * scale.reshape(1, -1, 1, 1) + self.bias.reshape(1, -1, 1, 1)
        return normalised.to(dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum or 0.0)
        self.running_var.lerp_(variance, self.momentum or 0.0)


class SumOverProcesses(torch.autograd.Function):
    """A sum whose gradient is the sum of the gradients: every process has used it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        """Add up."""
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Add up."""
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


def share_batch_norm(model: nn.Module) -> nn.Module:
    """Make every batch normalisation in the model one over all processes.

    The names and values of its parameters stay as they are.
    """
    if next(model.parameters()).is_cuda:
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            # The class alone differs: parameters stay those that the optimiser knows.
            module.__class__ = SharedBatchNorm
    return model
