"""The feed: who prepares a batch and how many share it changes nothing; classes are balanced."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.training.colours import tiny_recipe
from training.datasets import Splits
from training.distributed import Team
from training.errors import TrainingError
from training.feed import Batch, Batches, Feed, balanced_order, class_weights

CPU = torch.device("cpu")
ALONE = Team(device=CPU)
UNEVEN = torch.tensor([0] * 90 + [2] * 10)


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def test_workers_prepare_the_same_batches(splits: Splits) -> None:
    recipe = tiny_recipe()
    alone, helped = (Feed(splits.train, recipe, ALONE, workers) for workers in (0, 2))
    for epoch in (1, 2):
        before = torch.get_rng_state()
        pairs = list(zip(alone.epoch(epoch), helped.epoch(epoch), strict=True))
        assert torch.equal(torch.get_rng_state(), before)  # the network's dropout is not moved
        assert len(pairs) == len(alone) == 6
        assert all(same(*pair) for pair in pairs)
    assert helped.waited > 0


def test_an_epoch_is_every_image_once_in_another_order(splits: Splits) -> None:
    batches = Batches(splits.train, tiny_recipe(augmentation={}), ALONE)
    first, second = batches.order(1), batches.order(2)
    assert torch.equal(first.sort().values, torch.arange(45))
    assert torch.equal(second.sort().values, torch.arange(45))
    assert not torch.equal(first, second)
    assert torch.equal(batches[1, 1].images, batches.read(first[:8]))


def test_an_image_is_mirrored_in_every_other_epoch(splits: Splits) -> None:
    batches = Batches(splits.train, tiny_recipe(augmentation={"flip": True}, batch_size=45), ALONE)

    def mirrored(epoch: int) -> torch.Tensor:
        """Which images, in the order of the data."""
        order = batches.order(epoch)
        original, changed = batches.read(order), batches[epoch, 1].images
        same = (changed == original).flatten(1).all(dim=1)
        assert torch.equal(changed[~same], original[~same].flip(-1))
        return ~same[order.argsort()]

    first, second, third = (mirrored(epoch) for epoch in (1, 2, 3))
    assert torch.equal(second, ~first)
    assert torch.equal(third, first)
    assert 5 < int(first.sum()) < 40


def test_processes_share_the_batch_of_one(splits: Splits) -> None:
    recipe = tiny_recipe()
    whole = Batches(splits.train, recipe, ALONE)
    team = [Batches(splits.train, recipe, Team(rank, 3, device=CPU)) for rank in range(3)]
    for step in (1, 6):
        parts = zip(*(batches[2, step] for batches in team), strict=True)
        together = Batch(*(torch.cat(part) for part in parts))
        assert same(together, whole[2, step])


def test_processes_without_an_image_count_for_nothing(splits: Splits) -> None:
    recipe = tiny_recipe(batch_size=43)  # leaves two images for the second step
    shares = [Batches(splits.train, recipe, Team(rank, 3, device=CPU))[1, 2] for rank in range(3)]
    assert [len(share.images) for share in shares] == [1, 1, 1]
    assert sorted(share.weights.item() for share in shares) == [0.0, 0.5, 0.5]


def test_a_last_image_alone_waits_for_another_epoch(splits: Splits) -> None:
    feed = Feed(splits.train, tiny_recipe(batch_size=11), ALONE)
    assert [len(batch.images) for batch in feed.epoch(1)] == [11] * 4
    assert (len(feed), feed.images) == (4, 44)
    feed = Feed(splits.train, tiny_recipe(batch_size=43), ALONE)
    assert (len(feed), feed.images) == (2, 45)
    assert len(Batches(splits.train.take(np.arange(1)), tiny_recipe(), ALONE)) == 1


@pytest.mark.parametrize(("size", "accumulation"), [(9, 4), (8, 4), (43, 5), (20, 100), (2, 4)])
def test_processes_compute_as_many_parts(splits: Splits, size: int, accumulation: int) -> None:
    recipe = tiny_recipe(batch_size=size, accumulation=accumulation, augmentation={})
    team = [Batches(splits.train, recipe, Team(rank, 2, device=CPU)) for rank in (0, 1)]
    largest = math.ceil(math.ceil(size / 2) / accumulation)
    for step in range(1, len(team[0]) + 1):
        parts = [one[1, step].split(one.parts_of(step)) for one in team]
        assert len(parts[0]) == len(parts[1])
        assert all(1 <= len(part.images) <= largest + 1 for share in parts for part in share)


def test_classes_weigh_the_same() -> None:
    weights = class_weights(UNEVEN)[UNEVEN]
    assert weights.mean().item() == pytest.approx(1.0)
    assert weights[:90].sum().item() == pytest.approx(weights[90:].sum().item())
    with pytest.raises(TrainingError, match="images with several labels have no one class"):
        class_weights(torch.ones(4, 3, dtype=torch.uint8))


def test_classes_are_drawn_equally_often() -> None:
    order = balanced_order(UNEVEN.repeat(100), torch.Generator().manual_seed(0))
    assert len(order) == 10_000
    drawn = UNEVEN.repeat(100)[order].bincount()
    assert drawn[1] == 0
    assert 4800 < drawn[0] < 5200
    assert len(order.unique()) > 4500  # all of the small class, many of the large one


def test_recipe_balances(splits: Splits) -> None:
    labels = torch.from_numpy(splits.train.labels)
    uneven = splits.train.take(np.flatnonzero((splits.train.labels > 0) | (np.arange(45) < 5)))
    recipe = tiny_recipe(class_balance="weights", batch_size=35)
    (weighted,) = Feed(uneven, recipe, ALONE).epoch(1)
    sums = torch.zeros(3).index_add(0, weighted.labels, weighted.weights)
    torch.testing.assert_close(sums, torch.full((3,), 1 / 3))
    sampled = Batches(splits.train, tiny_recipe(class_balance="sampling"), ALONE)
    assert len(sampled.order(1)) == len(labels)
    assert len(sampled.order(1).unique()) < len(labels)
