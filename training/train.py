"""The training loop, from a recipe and images to the weights of the best epoch.

Read from top to bottom: settings become objects, then every step of training is on the page.
All that is random in an epoch comes from a generator seeded with (seed, epoch), so a resumed run
ends with the very weights of an uninterrupted one.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR
from tqdm import tqdm

from training.augment import make_augmentation
from training.classifier import Classifier
from training.datasets import Labelled, Source, Splits
from training.errors import TrainingError
from training.recipe import Recipe
from training.runs import Log, Run, best_entry
from training.tracking import tracking

EVALUATION_BATCH = 256
"""Fits the caches of a desktop processor; larger ones gain nothing."""

# ------------------------------------------------------------------ what trains it


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
    return OneCycleLR(
        optimizer,
        max_lr=recipe.learning_rate,
        total_steps=steps,
        pct_start=recipe.warmup_share,
        cycle_momentum=False,  # the recipe's momentum holds throughout
    )


def autocasts(recipe: Recipe, device: torch.device) -> bool:
    """Whether to compute in bf16: emulated, it is three times slower than fp32."""
    if recipe.precision != "auto":
        return recipe.precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


# ------------------------------------------------------------------ the run


@dataclass
class State:
    """Everything that a checkpoint holds and a resumed run goes on from."""

    model: Classifier
    optimizer: Optimizer
    schedule: LRScheduler
    log: list[dict[str, Any]]
    """One entry per finished epoch."""
    best: dict[str, Tensor]
    """Weights of the best epoch so far."""

    def checkpoint(self) -> dict[str, Any]:
        """As plain tensors and numbers."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "log": self.log,
            "best": self.best,
        }

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """The opposite of `checkpoint`."""
        self.model.load_state_dict(checkpoint["model"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.schedule.load_state_dict(checkpoint["schedule"])
        self.log, self.best = checkpoint["log"], checkpoint["best"]


def train(run: Run, source: Source, splits: Splits, *, resume: bool = False) -> State:
    """Train until the last epoch, or until patience ends; save a checkpoint after each epoch.

    Raises: TrainingError; KeyboardInterrupt, after which the last checkpoint stands.
    """
    recipe = run.recipe
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images, labels = to_tensors(splits.train)
    torch.manual_seed(recipe.seed)
    model = Classifier(recipe, source.spec, len(source.labels))
    # 5,000 images are plenty for a mean, a deviation and a covariance of patches.
    model.prepare(images[torch.randperm(len(images))[:5000]])
    model.to(device)
    optimizer = make_optimizer(recipe, model)
    steps = recipe.epochs * math.ceil(len(images) / recipe.batch_size)
    state = State(model, optimizer, make_schedule(recipe, optimizer, steps), log=[], best={})
    if resume:
        state.restore(run.load())
    else:
        run.save(state.checkpoint(), state.log)  # so that there is always one to resume from

    with tracking(run.path, recipe, state.log) as tracker:
        while len(state.log) < recipe.epochs and not out_of_patience(state.log, recipe.patience):
            epoch = len(state.log) + 1
            torch.manual_seed(epoch_seed(recipe.seed, epoch))
            trained = train_epoch(state, recipe, images, labels, device)
            if not math.isfinite(trained["train_loss"]):
                raise TrainingError(f"the loss of epoch {epoch} is not finite: lower learning_rate")
            loss, accuracy = evaluate(model, splits.validation, device)
            validated = {"validation_loss": loss, "validation_accuracy": accuracy}
            state.log.append({"epoch": epoch, **trained, **validated})
            if best_entry(state.log)["epoch"] == epoch:
                state.best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            run.save(state.checkpoint(), state.log)
            tracker.add(state.log[-1])
            tqdm.write(summary(state.log[-1], recipe.epochs), file=sys.stderr)
    return state


def train_epoch(
    state: State, recipe: Recipe, images: Tensor, labels: Tensor, device: torch.device
) -> dict[str, float]:
    """One pass over the training images in random order; returns what the log says of it."""
    model, optimizer = state.model.train(), state.optimizer
    augment = make_augmentation(recipe.augmentation, *images.shape[2:])
    bf16 = autocasts(recipe, device)
    rate = float(state.schedule.get_last_lr()[0])
    loss_sum, right, seen, started = 0.0, 0, 0, time.monotonic()
    with progress_bar(len(images), f"epoch {len(state.log) + 1}/{recipe.epochs}") as bar:
        for rows in torch.randperm(len(images)).split(recipe.batch_size):  # type: ignore[no-untyped-call]
            x = augment(images[rows]).to(device, memory_format=torch.channels_last)
            y = labels[rows].to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                outputs = model(x).float()
            loss = model.objective.loss(outputs, y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            state.schedule.step()

            loss_sum += loss.item() * len(rows)
            right += int(model.objective.right(outputs, y).sum())
            seen += len(rows)
            bar.set_postfix(loss=f"{loss_sum / seen:.3f}", acc=f"{right / seen:.1%}", refresh=False)
            bar.update(len(rows))
    seconds = time.monotonic() - started
    return {
        "train_loss": loss_sum / seen,
        "train_accuracy": right / seen,
        "learning_rate": rate,
        "images_per_second": seen / seconds,
        "seconds": seconds,
    }


@torch.inference_mode()
def evaluate(model: Classifier, split: Labelled, device: torch.device) -> tuple[float, float]:
    """Mean loss and accuracy in fp32, which is what will be exported."""
    model.eval()
    loss, right = 0.0, 0
    images, labels = to_tensors(split)
    for start in range(0, len(split), EVALUATION_BATCH):
        x, y = (part[start : start + EVALUATION_BATCH] for part in (images, labels))
        outputs = model(x.to(device, memory_format=torch.channels_last)).cpu()
        loss += model.objective.loss(outputs, y).item() * len(y)
        right += int(model.objective.right(outputs, y).sum())
    return loss / len(split), right / len(split)


# ------------------------------------------------------------------ small parts


def to_tensors(data: Labelled) -> tuple[Tensor, Tensor]:
    """Images uint8 (N, C, H, W), a view that shares their memory, and labels (N)."""
    return torch.from_numpy(data.images).permute(0, 3, 1, 2), torch.from_numpy(data.labels)


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed of its own for every epoch: mixed, as PyTorch's generator looks at 32 bits only."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])


def out_of_patience(log: Log, patience: int | None) -> bool:
    """Whether the last `patience` epochs brought nothing better."""
    return bool(patience and log) and len(log) - best_entry(log)["epoch"] >= (patience or 0)


def progress_bar(total: int, title: str) -> tqdm[NoReturn]:
    """A bar with images/s and the time left, where someone watches."""
    return tqdm(
        total=total, desc=title, unit="img", leave=False, disable=not sys.stderr.isatty(),
        mininterval=0.5, dynamic_ncols=True,
    )  # fmt: skip


def summary(entry: Mapping[str, float], epochs: int) -> str:
    """An epoch in one line."""
    return (
        f"epoch {entry['epoch']}/{epochs}  loss {entry['train_loss']:.3f}  "
        f"train {entry['train_accuracy']:.2%}  validation {entry['validation_accuracy']:.2%}  "
        f"{entry['images_per_second']:.0f} images/s  {entry['seconds']:.0f} s"
    )
