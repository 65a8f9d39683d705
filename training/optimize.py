"""What moves the weights: optimiser, schedule, precision, and the average of weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import get_ema_multi_avg_fn

from training.classifier import Classifier
from training.recipe import Recipe


def make_optimizer(recipe: Recipe, model: nn.Module) -> Optimizer:
    """The recipe's optimiser over what the model lets train."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Decay pulls weights towards 0; a bias or a normalisation's gain has no reason to be there.
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    rate, momentum = recipe.learning_rate, recipe.momentum
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate, betas=(momentum, 0.999))
    if recipe.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=rate, momentum=momentum)
    return torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=momentum > 0.0)


def make_schedule(recipe: Recipe, optimizer: Optimizer, steps: int) -> LRScheduler:
    """The learning rate over all `steps` of the run, advanced once per step."""
    if recipe.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=steps)
    warmup = recipe.warmup_share
    if warmup * steps == 1.0:  # OneCycleLR divides by what the warm-up has beyond its first step
        warmup *= 1 + 1e-6
    return OneCycleLR(
        optimizer,
        max_lr=recipe.learning_rate,
        total_steps=steps,
        pct_start=warmup,
        cycle_momentum=False,  # the recipe's momentum holds throughout
    )


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast_type(recipe: Recipe, device: torch.device) -> torch.dtype:
    """What to compute in; emulated, bf16 is three times slower than fp32."""
    if recipe.precision == "auto":
        return torch.bfloat16 if _computes_bf16(device) else torch.float32
    return PRECISIONS[recipe.precision]


def _computes_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


class Average:
    """An exponential moving average of a model's weights and statistics.

    Polyak, Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992. What is
    evaluated and exported is the average, which jumps less than the weights do.
    """

    def __init__(self, model: Classifier, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the model after `step` steps."""
        # Until there are enough steps to average, the first weights must not weigh forever.
        decay = min(self.decay, (1 + step) / (10 + step))
        ours, theirs = self.model.state_dict(), model.state_dict()
        averaged = [name for name, tensor in theirs.items() if tensor.is_floating_point()]
        _lerp(decay)([ours[name] for name in averaged], [theirs[name] for name in averaged], None)
        for name in theirs.keys() - set(averaged):  # counts of steps
            ours[name].copy_(theirs[name])


def _lerp(decay: float) -> Any:
    update: Any = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return update


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of everything that the model has learnt."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
