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
from tests.training.stopping import StoppedRun, UnbegunRun
from training.classifier import Classifier
from training.datasets import Source, Splits
from training.distributed import Team
from training.errors import TrainingError
from training.feed import Feed, as_tensor, mixed
from training.recipe import Recipe
from training.runs import LOG_FILE, Run, best_entry
from training.state import make_state
from training.train import begin, out_of_patience, train, train_epoch

ALONE = Team(device=torch.device("cpu"))
PLAIN = {
    "network": {"name": "cnn", "filters": [4], "hidden": 0, "dropout": 0.0},
    "augmentation": {}, "batch_size": 1000, "momentum": 0.0, "weight_decay": 0.0,
    "schedule": "cosine", "precision": "fp32",
}  # fmt: skip
"""One batch an epoch, of which the gradient is easily had."""


def new_run(path: Path, splits: Splits, recipe: Recipe | None = None) -> Run:
    return Run.create(path, recipe or tiny_recipe(), Path("photos"), splits)


def untimed(log: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    measured = ("seconds", "images_per_second", "data_wait")
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


def gradients(model: Classifier, splits: Splits) -> list[torch.Tensor]:
    images, labels = as_tensor(splits.train.images), torch.from_numpy(splits.train.labels)
    loss = F.cross_entropy(model(images), labels)
    return list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("accumulation", [1, 4])
def test_weights_move_once_per_step(source: Source, splits: Splits, accumulation: int) -> None:
    recipe = tiny_recipe(**PLAIN, accumulation=accumulation)
    model = Classifier(recipe, source.spec, len(source.labels))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    expected = gradients(model, splits)
    feed = Feed(splits.train, recipe, ALONE)
    train_epoch(make_state(model, recipe, 10, ALONE.device), model, feed, recipe, ALONE)
    for parameter, old, gradient in zip(model.parameters(), before, expected, strict=True):
        torch.testing.assert_close(parameter, old - recipe.learning_rate * gradient)


def test_long_gradients_are_clipped(source: Source, splits: Splits) -> None:
    recipe = tiny_recipe(**PLAIN, clip_norm=1e-3)
    model = Classifier(recipe, source.spec, len(source.labels))
    before = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    feed = Feed(splits.train, recipe, ALONE)
    train_epoch(make_state(model, recipe, 10, ALONE.device), model, feed, recipe, ALONE)
    after = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    moved = torch.linalg.vector_norm(after - before).item()
    assert moved == pytest.approx(recipe.learning_rate * recipe.clip_norm, rel=1e-3)


def test_the_average_of_the_weights_is_evaluated(
    tmp_path: Path, source: Source, splits: Splits
) -> None:
    recipe = tiny_recipe(**PLAIN, ema=0.9, epochs=1)
    state = train(new_run(tmp_path, splits, recipe), source, splits)
    torch.manual_seed(recipe.seed)
    first = Classifier(recipe, source.spec, len(source.labels)).state_dict()
    decay = (1 + 1) / (10 + 1)  # as it is after one step
    for name, parameter in state.model.named_parameters():
        expected = decay * first[name] + (1 - decay) * parameter
        torch.testing.assert_close(state.best[name], expected)
    assert torch.equal(state.best["mean"], state.model.mean)


VARIANTS: list[dict[str, object]] = [
    {"network": {"name": "cnn"}},
    {"network": {"name": "fast", "widths": [8]}, "ema": 0.9, "accumulation": 2},
    {"precision": "fp16", "clip_norm": 1.0, "class_balance": "sampling"},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=lambda changes: "-".join(changes))
def test_resumed_run_ends_with_the_same_weights(
    tmp_path: Path, source: Source, splits: Splits, changes: dict[str, object]
) -> None:
    recipe = tiny_recipe(epochs=3, **changes)
    whole = train(new_run(tmp_path / "whole", splits, recipe), source, splits)

    new_run(tmp_path / "parts", splits, recipe)
    stopped = StoppedRun.open(tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        train(stopped, source, splits)
    resumed = train(Run.resume(tmp_path / "parts", recipe, splits), source, splits)

    for name, tensor in whole.evaluated.state_dict().items():
        assert torch.equal(tensor, resumed.evaluated.state_dict()[name]), name
        assert torch.equal(whole.best[name], resumed.best[name]), name
    assert untimed(resumed.log) == untimed(whole.log)
    assert len((tmp_path / "parts" / LOG_FILE).read_text().splitlines()) == 3


def test_every_epoch_of_every_seed_draws_other_numbers() -> None:
    drawn = set()
    for seed, epoch in itertools.product((0, 1, 2**31 - 1), range(1, 21)):
        torch.manual_seed(mixed(seed, epoch, 0))
        drawn.add(torch.randint(2**62, ()).item())
    assert len(drawn) == 60


def test_a_run_can_be_resumed_before_its_first_epoch(
    tmp_path: Path, source: Source, splits: Splits
) -> None:
    recipe = tiny_recipe(epochs=1)
    whole = train(new_run(tmp_path / "whole", splits, recipe), source, splits)
    new_run(tmp_path / "parts", splits, recipe)
    with pytest.raises(KeyboardInterrupt):
        train(UnbegunRun.open(tmp_path / "parts"), source, splits)
    assert Run.open(tmp_path / "parts").load()["log"] == []
    resumed = train(Run.resume(tmp_path / "parts", recipe, splits), source, splits)
    assert untimed(resumed.log) == untimed(whole.log)
    for name, tensor in whole.best.items():
        assert torch.equal(tensor, resumed.best[name]), name


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
    run = new_run(tmp_path, splits, tiny_recipe(learning_rate=1e30))
    with pytest.raises(
        TrainingError, match=r"loss at step \d of epoch 1 is not finite: lower lear"
    ):
        train(run, source, splits)


def test_the_checkpoint_before_a_divergence_stands(
    tmp_path: Path, source: Source, splits: Splits
) -> None:
    recipe = tiny_recipe(epochs=3)
    new_run(tmp_path, splits, recipe)
    with pytest.raises(KeyboardInterrupt):
        train(StoppedRun.open(tmp_path), source, splits)
    run = Run.open(tmp_path)
    checkpoint = run.load()
    next(iter(checkpoint["model"].values())).fill_(torch.nan)
    run.save(checkpoint, checkpoint["log"])
    before = run.load()
    with pytest.raises(
        TrainingError, match=r"step 1 of epoch 2 .* the checkpoint of epoch 1 stands"
    ):
        train(run, source, splits)
    assert run.load()["log"] == before["log"]


ONE_PIXEL = {"network": {"name": "fast", "widths": [4, 4, 4]}, "augmentation": {}}
"""Maps of one pixel in the end, of which batch normalisation takes no fewer than two."""


def test_a_last_batch_of_one_image_ends_no_run(
    tmp_path: Path, source: Source, splits: Splits
) -> None:
    recipe = tiny_recipe(**ONE_PIXEL, batch_size=22, epochs=1)
    (entry,) = train(new_run(tmp_path, splits, recipe), source, splits).log
    assert round(entry["train_accuracy"] * 44, 6).is_integer()


def test_one_image_a_step_is_refused_in_a_line(
    tmp_path: Path, source: Source, splits: Splits
) -> None:
    recipe = tiny_recipe(**ONE_PIXEL, batch_size=1)
    with pytest.raises(TrainingError, match="one image at a time: raise batch_size"):
        train(new_run(tmp_path, splits, recipe), source, splits)


def test_weights_are_measured_on_few_pixels(
    tmp_path: Path, source: Source, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Size] = []
    monkeypatch.setattr("training.train.PREPARING_PIXELS", 10 * 16 * 16)
    monkeypatch.setattr(Classifier, "prepare", lambda model, images, _: seen.append(images.shape))
    for network in ("fast", "cnn"):
        recipe = tiny_recipe(network={"name": network})
        run = new_run(tmp_path / network, splits, recipe)
        begin(run, source, Feed(splits.train, recipe, ALONE), ALONE)
    assert seen == [(10, 3, 16, 16), (0, 3, 16, 16)]


@pytest.mark.slow
def test_compiled_is_the_same_network(tmp_path: Path, source: Source, splits: Splits) -> None:
    plain = tiny_recipe(**PLAIN, epochs=2)
    expected = train(new_run(tmp_path / "plain", splits, plain), source, splits)
    recipe = tiny_recipe(**PLAIN, epochs=2, compile=True)
    compiled = train(new_run(tmp_path / "compiled", splits, recipe), source, splits)
    for name, tensor in expected.model.state_dict().items():
        torch.testing.assert_close(compiled.best[name], expected.best[name])
        torch.testing.assert_close(compiled.model.state_dict()[name], tensor)


def test_fast_network_s_stem_whitens(source: Source, splits: Splits) -> None:
    model = Classifier(tiny_recipe(network={"name": "fast", "widths": [8]}), source.spec, 3)
    images = as_tensor(splits.train.images)
    model.prepare(images)
    normalised = model.normalise(images)
    torch.testing.assert_close(normalised.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    answers = model.network.stem(normalised)[:, :12].movedim(1, 0).flatten(1)  # type: ignore
    covariance = torch.cov(answers)
    assert (covariance - covariance.diag().diag()).abs().max() < 1e-2
    assert covariance.diag().max() < 1.01
