"""The loop: it learns, steps once per batch, and a resumed run is the uninterrupted one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.training.colours import tiny_recipe
from training.classifier import Classifier
from training.datasets import Source, Splits
from training.errors import TrainingError
from training.recipe import Recipe
from training.runs import LOG_FILE, Run, best_entry
from training.train import (
    State,
    epoch_seed,
    make_optimizer,
    make_schedule,
    out_of_patience,
    to_tensors,
    train,
    train_epoch,
)

CPU = torch.device("cpu")


class StoppedRun(Run):
    """A run that is interrupted once its first epoch is saved."""

    def save(self, checkpoint: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> None:
        super().save(checkpoint, log)
        if log:
            raise KeyboardInterrupt


def new_run(path: Path, splits: Splits, recipe: Recipe | None = None) -> Run:
    return Run.create(path, recipe or tiny_recipe(), Path("photos"), splits)


def untimed(log: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    measured = ("seconds", "images_per_second")
    return [{key: entry[key] for key in entry if key not in measured} for entry in log]


@pytest.mark.parametrize(
    ("optimizer", "schedule", "rate"),
    [("sgd", "one-cycle", 0.05), ("adamw", "cosine", 0.01), ("rmsprop", "one-cycle", 0.001)],
)
def test_loss_falls(
    tmp_path: Path, source: Source, splits: Splits, optimizer: str, schedule: str, rate: float
) -> None:
    recipe = tiny_recipe(
        optimizer=optimizer, schedule=schedule, learning_rate=rate, epochs=8, weight_decay=0.0
    )
    log = train(new_run(tmp_path, splits, recipe), source, splits).log
    assert log[-1]["train_loss"] < log[0]["train_loss"]
    assert best_entry(log)["validation_accuracy"] > 0.5


def test_weights_move_once_per_step(source: Source, splits: Splits) -> None:
    network = {"name": "cnn", "filters": [4], "hidden": None, "dropout": 0.0}
    recipe = tiny_recipe(
        network=network, augmentation={}, batch_size=1000, momentum=0.0, weight_decay=0.0,
        schedule="cosine", precision="fp32",
    )  # fmt: skip
    images, labels = to_tensors(splits.train)
    model = Classifier(recipe, source.spec, len(source.labels))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    loss = F.cross_entropy(model(images), labels)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    optimizer = make_optimizer(recipe, model)
    state = State(model, optimizer, make_schedule(recipe, optimizer, 10), log=[], best={})

    train_epoch(state, recipe, images, labels, CPU)

    for parameter, old, gradient in zip(model.parameters(), before, gradients, strict=True):
        torch.testing.assert_close(parameter, old - recipe.learning_rate * gradient)


@pytest.mark.parametrize("network", [{"name": "cnn"}, {"name": "fast", "widths": [8]}])
def test_resumed_run_ends_with_the_same_weights(
    tmp_path: Path, source: Source, splits: Splits, network: dict[str, object]
) -> None:
    recipe = tiny_recipe(epochs=3, network=network)
    whole = train(new_run(tmp_path / "whole", splits, recipe), source, splits)

    new_run(tmp_path / "parts", splits, recipe)
    stopped = StoppedRun.open(tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        train(stopped, source, splits)
    resumed = train(Run.resume(tmp_path / "parts", recipe, splits), source, splits, resume=True)

    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    assert untimed(resumed.log) == untimed(whole.log)
    assert len((tmp_path / "parts" / LOG_FILE).read_text().splitlines()) == 3


def test_every_epoch_of_every_seed_draws_other_numbers() -> None:
    drawn = set()
    for seed, epoch in itertools.product((0, 1, 2**31 - 1), range(1, 21)):
        torch.manual_seed(epoch_seed(seed, epoch))
        drawn.add(torch.randint(2**62, ()).item())
    assert len(drawn) == 60


def test_a_run_can_be_resumed_before_its_first_epoch(
    tmp_path: Path, source: Source, splits: Splits
) -> None:
    recipe = tiny_recipe(epochs=1)
    run = new_run(tmp_path, splits, recipe)
    train(run, source, splits)
    first = run.load()
    assert [entry["epoch"] for entry in first["log"]] == [1]
    assert train(run, source, splits, resume=True).log == first["log"]


def test_patience_ends_a_run(tmp_path: Path, source: Source, splits: Splits) -> None:
    # Nothing is learnt at this rate, so the first epoch stays the best.
    recipe = tiny_recipe(epochs=50, patience=2, learning_rate=1e-30)
    assert len(train(new_run(tmp_path, splits, recipe), source, splits).log) == 3


def test_patience_counts_from_the_best_epoch() -> None:
    log = [
        {"epoch": epoch, "validation_accuracy": accuracy, "validation_loss": 1.0}
        for epoch, accuracy in enumerate([0.1, 0.5, 0.4, 0.5], start=1)
    ]
    assert best_entry(log)["epoch"] == 2
    assert out_of_patience(log, 2)
    assert not out_of_patience(log, 3)
    assert not out_of_patience(log, None)


def test_a_loss_that_is_not_finite_ends_a_run(
    tmp_path: Path, source: Source, splits: Splits
) -> None:
    recipe = tiny_recipe(learning_rate=1e30)
    with pytest.raises(TrainingError, match="loss of epoch 1 is not finite: lower learning_rate"):
        train(new_run(tmp_path, splits, recipe), source, splits)


def test_fast_network_s_stem_whitens(source: Source, splits: Splits) -> None:
    model = Classifier(tiny_recipe(network={"name": "fast", "widths": [8]}), source.spec, 3)
    images, _ = to_tensors(splits.train)
    model.prepare(images)
    normalised = model.normalise(images)
    torch.testing.assert_close(normalised.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    answers = model.network.stem(normalised)[:, :12].movedim(1, 0).flatten(1)  # type: ignore
    covariance = torch.cov(answers)
    assert (covariance - covariance.diag().diag()).abs().max() < 1e-2
    assert covariance.diag().max() < 1.01
