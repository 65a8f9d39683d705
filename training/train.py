"""The training loop, from a recipe and images to the weights of the best epoch.

Read from top to bottom: every step of training is on the page. What changes is the state; what
is random follows from (seed, epoch, step), so a resumed run ends with the very weights of an
uninterrupted one.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn

from training.classifier import Classifier
from training.datasets import Labelled, Source, Splits
from training.datasets.base import Statistics
from training.distributed import Team, without_sync
from training.errors import TrainingError
from training.feed import Batch, Feed, as_tensor, mixed
from training.networks import Prepared
from training.optimize import autocast_type, weights_of
from training.progress import describe_epoch, progress_bar, show
from training.recipe import Recipe
from training.runs import Log, Run, best_entry
from training.state import State, make_state
from training.tracking import tracking

EVALUATION_BATCH = 256
"""Fits the caches of a desktop processor; larger ones gain nothing."""
PREPARING_PIXELS = 5_120_000
"""Of the images that some weights are measured on: 5,000 of 32 x 32, plenty for a covariance of
patches."""
CHECK_EVERY = 50
"""Steps between looks at the loss: each makes a GPU wait for the processor."""


# ------------------------------------------------------------------ the run


def train(
    run: Run,
    source: Source,
    splits: Splits,
    *,
    team: Team | None = None,
    workers: int | None = None,
) -> State:
    """Train until the last epoch, or until patience ends; save a checkpoint after each epoch.

    A run that has a checkpoint goes on from it.

    Raises: TrainingError; KeyboardInterrupt, after which the last checkpoint stands.
    """
    recipe, team = run.recipe, team or Team()
    feed = Feed(splits.train, recipe, team, workers)
    state = begin(run, source, feed, team)
    network = None
    with tracking(run.path, recipe, state.log, writes=team.leads) as tracker:
        while len(state.log) < recipe.epochs and not out_of_patience(state.log, recipe.patience):
            epoch = len(state.log) + 1
            torch.manual_seed(mixed(recipe.seed, epoch, team.rank))  # dropout's
            if state.model.begin_epoch(epoch) or network is None:
                network = as_called(state.model, recipe, team)
            trained = train_epoch(state, network, feed, recipe, team)
            validated = evaluate(state, splits.validation, recipe, team)
            state.log.append({"epoch": epoch, **trained, **validated})
            if best_entry(state.log)["epoch"] == epoch:
                state.best = weights_of(state.evaluated)
            if team.leads:
                run.save(state.checkpoint(), state.log)
                tracker.add(state.log[-1])
                show(describe_epoch(state.log[-1], recipe.epochs, splits))
    return state


def begin(run: Run, source: Source, feed: Feed, team: Team) -> State:
    """The state to go on from: the checkpoint's, or that of a new network."""
    torch.manual_seed(run.recipe.seed)
    model = Classifier(run.recipe, source.spec, len(source.labels))
    saved = team.agree(run.has_checkpoint())
    if not saved:
        pixels = PREPARING_PIXELS if isinstance(model.network, Prepared) else 0
        count = pixels // (source.spec.height * source.spec.width)
        sample = feed.batches.read(torch.randperm(len(feed.batches.labels))[:count]).cpu()
        model.prepare(sample, Statistics(**run.environment["train_statistics"]))
        model.load_pretrained()
    model.to(team.device)
    state = make_state(model, run.recipe, run.recipe.epochs * len(feed), team.device)
    if saved:
        state.restore(team.agree(run.load() if team.leads else {}))
    elif team.leads:
        run.save(state.checkpoint(), state.log)  # so that there is always one to resume from
    return state


def train_epoch(
    state: State, network: nn.Module, feed: Feed, recipe: Recipe, team: Team
) -> dict[str, float]:
    """One pass over the training images in random order; returns what the log says of it.

    `network` is the state's model as it is called: by itself, compiled, or as one of a team's.
    Raises: TrainingError where the loss is not finite.
    """
    state.model.train()
    epoch, rate = len(state.log) + 1, float(state.schedule.get_last_lr()[0])
    pending: list[Tensor] = []  # figures of steps that nobody has looked at yet
    sums, started = torch.zeros(2), time.monotonic()
    with progress_bar(len(feed), recipe, epoch, shown=team.leads) as bar:
        for step, batch in enumerate(feed.epoch(epoch), start=1):
            parts = batch.split(feed.batches.parts_of(step))
            pending.append(take_step(state, network, parts, recipe, team))
            if step % CHECK_EVERY == 0 or step == len(feed):
                figures = team.sum(torch.stack(pending)).cpu()  # (steps, 2)
                if bad := (~figures[:, 0].isfinite()).nonzero().flatten().tolist():
                    raise diverged(f"the loss at step {step - len(pending) + 1 + bad[0]}", epoch)
                sums += figures.sum(dim=0)
                pending.clear()
                bar.set_postfix(loss=f"{sums[0] / step:.3f}", refresh=False)
            bar.update()
    seconds, images = time.monotonic() - started, feed.images
    return {
        "train_loss": float(sums[0]) / len(feed),
        "train_accuracy": float(sums[1]) / images,
        "learning_rate": rate,
        "images_per_second": images / seconds,
        "data_wait": feed.waited / seconds,
        "seconds": seconds,
    }


def take_step(
    state: State, network: nn.Module, parts: Sequence[Batch], recipe: Recipe, team: Team
) -> Tensor:
    """One step of the optimiser; returns the loss and how many images were right, (2).

    `parts` are of one batch, and equally many in each process.
    """
    device, dtype = team.device, autocast_type(recipe, team.device)
    figures = torch.zeros(2, device=device)
    for number, (x, y, weights) in enumerate(parts, start=1):
        with nullcontext() if number == len(parts) else without_sync(network):
            with several(), torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
                outputs = network(x.contiguous(memory_format=torch.channels_last)).float()
            loss = (state.model.objective.losses(outputs, y) * weights).sum()
            # Processes' losses add up, but their gradients are averaged.
            state.scaler.scale(loss * team.size).backward()  # type: ignore[no-untyped-call]
        right = state.model.objective.right(outputs, y) & (weights > 0)
        figures += torch.stack([loss.detach(), right.sum()])

    if recipe.clip_norm:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.model.parameters(), recipe.clip_norm)
    scale = state.scaler.get_scale()
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad()
    if state.scaler.get_scale() >= scale:  # else fp16 overflowed, and no weight has moved
        state.schedule.step()
    if state.average is not None:
        state.average.update(state.model, state.schedule.last_epoch)
    return figures


@torch.inference_mode()
def evaluate(state: State, split: Labelled, recipe: Recipe, team: Team) -> dict[str, float]:
    """Measure what will be exported, in the precision of training; returns what the log says of it.

    Raises: TrainingError where the loss is not finite.
    """
    model, dtype = state.evaluated.eval(), autocast_type(recipe, team.device)
    sums, share = torch.zeros(2, dtype=torch.float64), team.share(len(split))
    for start in range(share.start, share.stop, EVALUATION_BATCH):
        rows = slice(start, min(start + EVALUATION_BATCH, share.stop))
        x, y = as_tensor(split.images[rows]), torch.from_numpy(split.labels[rows])
        x = x.to(team.device, memory_format=torch.channels_last)
        with torch.autocast(team.device.type, dtype, enabled=dtype is not torch.float32):
            outputs = model(x).float().cpu()
        right = model.objective.right(outputs, y).sum()
        sums += torch.stack([model.objective.losses(outputs, y).sum(), right])
    loss, accuracy = (team.sum(sums.to(team.device)) / len(split)).tolist()
    if not math.isfinite(loss):
        raise diverged("the validation loss", len(state.log) + 1)
    return {"validation_loss": loss, "validation_accuracy": accuracy}


# ------------------------------------------------------------------ small parts


def diverged(what: str, epoch: int) -> TrainingError:
    """What ends a run whose numbers have left the range of numbers."""
    stands = f"the checkpoint of epoch {epoch - 1} stands" if epoch > 1 else "nothing is learnt yet"
    return TrainingError(
        f"{what} of epoch {epoch} is not finite: lower learning_rate or set clip_norm; {stands}"
    )


@contextmanager
def several() -> Iterator[None]:
    """Raises: TrainingError where batch normalisation is given too few numbers for a variance."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise TrainingError(
            "batch normalisation cannot learn from one image at a time: raise batch_size, or lower "
            "accumulation"
        ) from None


def as_called(model: Classifier, recipe: Recipe, team: Team) -> nn.Module:
    """The model as a step calls it: one of a team's, compiled. Made anew when what learns changes,
    as a team averages the gradients of what learnt when it was made."""
    network = team.wrap(model)
    return cast(nn.Module, torch.compile(network)) if recipe.compile else network


def require_compiler(recipe: Recipe, device: torch.device) -> None:
    """Raises: TrainingError where the recipe wants code made for a CPU and nothing can make it."""
    compiler = os.environ.get("CXX", "g++")  # as torch.compile chooses it
    if recipe.compile and device.type == "cpu" and shutil.which(compiler) is None:
        raise TrainingError(
            f"compile: there is no C++ compiler {compiler!r}; install one, name it in CXX, or "
            "leave compile out"
        )


def out_of_patience(log: Log, patience: int | None) -> bool:
    """Whether the last `patience` epochs brought nothing better."""
    return bool(patience and log) and len(log) - best_entry(log)["epoch"] >= (patience or 0)
