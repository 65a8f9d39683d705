"""Feeds the loop: which images make a batch, how they are changed, and who does it.

The order of an epoch follows from (seed, epoch), the changes of a batch from (seed, epoch, step),
both drawn for the whole batch of all processes. So it makes no difference to the result whether
this process prepares the batches or how many workers do, nor where a run was interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from convoy.processors import processor_count
from training.augment import Flip, make_augmentation
from training.datasets import Labelled
from training.distributed import Team
from training.errors import TrainingError
from training.interrupts import leave_interrupts
from training.recipe import Recipe

ORDER = 0
"""Beside the steps, which count from 1: the stream of random numbers that the order is drawn of."""


class Batch(NamedTuple):
    """A process's part of the images of one step."""

    images: Tensor
    """uint8 (B, C, H, W)"""
    labels: Tensor
    """int64 (B), or uint8 (B, K)"""
    weights: Tensor
    """float32 (B): each image's part in the mean loss over all processes' images."""

    def split(self, parts: int) -> list[Batch]:
        """Into so many, whose sizes differ by one at most."""
        return [
            Batch(*part) for part in zip(*(one.tensor_split(parts) for one in self), strict=True)
        ]


class Batches(Dataset[Batch]):
    """Every batch of a run by (epoch, step), both from 1."""

    def __init__(self, data: Labelled, recipe: Recipe, team: Team) -> None:
        self.images, self.labels = data.images, torch.from_numpy(data.labels)
        self.recipe, self.team = recipe, team
        height, width = data.images.shape[1:3]
        self.augment = make_augmentation(recipe.augmentation, height, width)
        self.resident: Tensor | None = None
        self.class_weights = class_weights(self.labels) if recipe.class_balance != "none" else None
        self._flips = self.augment.flips()
        # Epochs count from 1: nothing else is drawn from the stream of epoch 0.
        self._sides = torch.rand(
            len(self.labels), generator=stream(recipe.seed, 0, 0), dtype=torch.float64
        )
        self._order: tuple[int, Tensor] = (0, torch.empty(0))

    def __len__(self) -> int:
        # Batch normalisation may not take one image alone: a last batch of one waits for an epoch
        # whose order has that image elsewhere.
        return max(1, math.ceil((len(self.labels) - 1) / self.recipe.batch_size))

    def images_of(self, step: int) -> int:
        """How many images the step takes, in all processes."""
        size = self.recipe.batch_size
        return min(size, len(self.labels) - (step - 1) * size)

    def parts_of(self, step: int) -> int:
        """In how many parts every process computes its share of the step.

        Equally many in each, as they wait for each other in batch normalisation; none has over
        one image more than those of a full batch.
        """
        count, full = self.images_of(step), self.images_of(1)
        wanted = math.ceil(self.recipe.accumulation * count / full)
        return max(1, min(wanted, count // self.team.size))

    def reside(self) -> None:
        """Keep all images in memory, the device's where it is the device that changes them."""
        images = as_tensor(self.images)
        self.resident = images.to(self.team.device) if self.augment.batched else images

    def __getitem__(self, place: tuple[int, int]) -> Batch:
        epoch, step = place
        size = self.recipe.batch_size
        rows = self.order(epoch)[(step - 1) * size : step * size]
        numbers = self.augment.draw(len(rows), stream(self.recipe.seed, epoch, step))
        if self._flips is not None:
            numbers[:, self._flips] = Flip.alternating(self._sides[rows], epoch)
        weights = torch.full((len(rows),), 1 / len(rows))
        if self.class_weights is not None and self.recipe.class_balance == "weights":
            weights = weights * self.class_weights[self.labels[rows]]
        share = self.team.share(len(rows))
        if share.start == share.stop:  # fewer images than processes
            share, weights = slice(0, 1), torch.zeros(1)
        rows = rows[share]
        images = self.augment(self.read(rows), numbers[share])
        return Batch(images, self.labels[rows], weights[share])

    def order(self, epoch: int) -> Tensor:
        """The rows of an epoch in the order of training, int64."""
        if self._order[0] != epoch:
            generator = stream(self.recipe.seed, epoch, ORDER)
            if self.recipe.class_balance == "sampling":
                order = balanced_order(self.labels, generator)
            else:
                order = torch.randperm(len(self.labels), generator=generator)
            self._order = epoch, order
        return self._order[1]

    def read(self, rows: Tensor) -> Tensor:
        """The images of these rows, as they are, uint8 (B, C, H, W)."""
        if self.resident is not None:
            return self.resident[rows.to(self.resident.device)]
        return as_tensor(self.images[rows.numpy()])


class Feed:
    """Hands out a run's batches on the device, and counts the time that the loop waits for them."""

    def __init__(
        self, data: Labelled, recipe: Recipe, team: Team, workers: int | None = None
    ) -> None:
        self.batches = Batches(data, recipe, team)
        self.device = team.device
        self.places: list[tuple[int, int]] = []
        self.waited = 0.0
        """Seconds, of the epoch that is going on."""
        if workers is None:
            workers = suitable_workers(self.batches)
        if workers == 0 and isinstance(data.images, np.ndarray):
            self.batches.reside()
        self.workers = workers
        self._loader = self._make_loader() if workers else None

    def __len__(self) -> int:
        """Steps of an epoch."""
        return len(self.batches)

    @property
    def images(self) -> int:
        """Of an epoch."""
        return min(len(self.batches.labels), len(self) * self.batches.recipe.batch_size)

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of one epoch, in order."""
        self.places[:] = [(number, step) for step in range(1, len(self) + 1)]
        source = iter(self._loader or map(self.batches.__getitem__, self.places))
        self.waited = 0.0
        while True:
            asked = time.monotonic()
            batch = next(source, None)
            if batch is not None:
                batch = Batch(*(part.to(self.device, non_blocking=True) for part in batch))
            self.waited += time.monotonic() - asked
            if batch is None:
                return
            yield batch

    def _make_loader(self) -> DataLoader[Batch]:
        return DataLoader(
            self.batches,
            batch_size=None,  # they are batches already
            sampler=self.places,
            num_workers=self.workers,
            persistent_workers=True,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=leave_interrupts,
            generator=torch.Generator(),  # the global one is the network's
        )


def as_tensor(images: NDArray[np.uint8]) -> Tensor:
    """[N, H, W, C] to (N, C, H, W), a view that shares their memory."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def suitable_workers(batches: Batches) -> int:
    """Processes to prepare batches: none for what this one does as fast.

    Images that are too many for the memory need time to be read. Changes image by image would let
    a GPU wait; on a CPU, workers would only take the cores that train.
    """
    in_memory = isinstance(batches.images, np.ndarray)
    if in_memory and (batches.augment.batched or batches.team.device.type == "cpu"):
        return 0
    return max(1, processor_count() // batches.team.local_size)


def class_weights(labels: Tensor) -> Tensor:
    """What gives every class the same part in the loss, (K); 1 on average over the images.

    Raises: TrainingError where images may have several labels.
    """
    if labels.ndim != 1:
        raise TrainingError("class_balance: images with several labels have no one class")
    counts = labels.bincount()
    present = int((counts > 0).sum())
    return len(labels) / (present * counts.clamp_min(1))


def balanced_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """As many rows as there are, drawn with replacement, every class equally often on average."""
    by_class = labels.argsort(stable=True)
    counts = labels.bincount()
    counts = counts[counts > 0]
    drawn = torch.randint(len(counts), labels.shape, generator=generator)
    inside = torch.rand(labels.shape, generator=generator, dtype=torch.float64) * counts[drawn]
    starts = counts.cumsum(dim=0) - counts
    return by_class[starts[drawn] + inside.long()]


def stream(seed: int, epoch: int, step: int) -> torch.Generator:
    """Random numbers of their own for every step of every epoch of every seed."""
    return torch.Generator().manual_seed(mixed(seed, epoch, step))


def mixed(*parts: int) -> int:
    """One seed of several numbers: mixed, as PyTorch's generator looks at 32 bits only."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
