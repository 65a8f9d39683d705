"""What training changes from step to step, and a checkpoint keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from training.classifier import Classifier
from training.optimize import Average, autocast_type, make_optimizer, make_schedule
from training.recipe import Recipe


@dataclass
class State:
    """Everything that a checkpoint holds and a resumed run goes on from."""

    model: Classifier
    optimizer: Optimizer
    schedule: LRScheduler
    scaler: GradScaler
    """Of fp16's losses; idle otherwise."""
    average: Average | None
    log: list[dict[str, Any]]
    """One entry per finished epoch."""
    best: dict[str, Tensor]
    """Weights of the best epoch so far."""

    @property
    def evaluated(self) -> Classifier:
        """What is measured, and exported in the end."""
        return self.model if self.average is None else self.average.model

    def checkpoint(self) -> dict[str, Any]:
        """As plain tensors and numbers."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average and self.average.model.state_dict(),
            "log": self.log,
            "best": self.best,
        }

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """The opposite of `checkpoint`."""
        self.model.load_state_dict(checkpoint["model"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.schedule.load_state_dict(checkpoint["schedule"])
        self.scaler.load_state_dict(checkpoint["scaler"])
        if self.average is not None:
            self.average.model.load_state_dict(checkpoint["average"])
        self.log, self.best = checkpoint["log"], checkpoint["best"]


def make_state(model: Classifier, recipe: Recipe, steps: int, device: torch.device) -> State:
    """The state before the first of `steps` steps."""
    optimizer = make_optimizer(recipe, model)
    fp16 = autocast_type(recipe, device) is torch.float16
    return State(
        model,
        optimizer,
        make_schedule(recipe, optimizer, steps),
        GradScaler(device.type, enabled=fp16),
        Average(model, recipe.ema) if recipe.ema else None,
        log=[],
        best={},
    )
