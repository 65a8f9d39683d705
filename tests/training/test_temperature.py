"""Temperature scaling: probabilities become honest, labels stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from convoy.bundle import Bundle
from tests.training.colours import export, tiny_recipe
from training.datasets import Source, Splits
from training.metrics import without_temperature
from training.runs import Run
from training.temperature import fit_temperature
from training.train import train

LOGITS = torch.randn(4000, 5, generator=torch.Generator().manual_seed(0)) * 2


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(temperature: float) -> None:
    torch.manual_seed(1)
    labels = torch.multinomial((LOGITS / temperature).softmax(dim=1), 1).squeeze(1)
    fitted = fit_temperature(tiny_recipe(label_smoothing=0.1), LOGITS, labels)
    assert fitted == pytest.approx(temperature, rel=0.05)


@pytest.mark.parametrize(("objective", "outputs"), [("sigmoid", 1), ("multi-label", 5)])
def test_a_sigmoids_temperature_is_found(objective: str, outputs: int) -> None:
    torch.manual_seed(1)
    labels = torch.bernoulli((LOGITS[:, :outputs] / 0.5).sigmoid()).to(torch.uint8)
    targets = labels[:, 0].long() if objective == "sigmoid" else labels
    recipe = tiny_recipe(objective=objective, source="folder" if outputs == 1 else "table")
    fitted = fit_temperature(recipe, LOGITS[:, :outputs], targets)
    assert fitted == pytest.approx(0.5, rel=0.05)


def test_no_mistake_on_a_few_images_is_no_certainty() -> None:
    logits = torch.eye(3).repeat(4, 1)
    temperature = fit_temperature(tiny_recipe(), logits, logits.argmax(dim=1))
    highest = (logits / temperature).softmax(dim=1).max()
    assert 0.9 < highest < 0.99  # one image of thirteen is as if drawn by chance


def test_the_answers_without_a_temperature_are_worked_out() -> None:
    labels = np.zeros(len(LOGITS), np.int64)
    softmax, sigmoid = ((LOGITS / 0.3).softmax(dim=1), (LOGITS / 0.3).sigmoid())
    before = without_temperature(labels, softmax.numpy(), 0.3)
    np.testing.assert_allclose(before, LOGITS.softmax(dim=1), atol=1e-5)
    several = np.zeros(LOGITS.shape, np.uint8)
    before = without_temperature(several, sigmoid.numpy(), 0.3)
    np.testing.assert_allclose(before, LOGITS.sigmoid(), atol=1e-2)


@pytest.fixture(scope="module")
def bundles(
    tmp_path_factory: pytest.TempPathFactory, source: Source, splits: Splits, photos: Path
) -> list[Bundle]:
    """The same weights without and with a temperature."""
    written = []
    for scaling in (False, True):
        recipe = tiny_recipe(temperature_scaling=scaling, label_smoothing=0.3, epochs=3)
        run = Run.create(tmp_path_factory.mktemp("run"), recipe, photos, splits)
        train(run, source, splits)
        written.append(export(run, tmp_path_factory.mktemp("models"), photos))
    return written


def test_only_the_probabilities_change(bundles: list[Bundle]) -> None:
    plain, scaled = (bundle.manifest for bundle in bundles)
    assert plain.temperature is None
    assert plain.quality[0].unscaled_calibration_error is None
    assert scaled.temperature not in (None, 1.0)
    assert scaled.quality[0].confusion == plain.quality[0].confusion
    assert scaled.quality[0].unscaled_calibration_error == pytest.approx(
        plain.quality[0].calibration_error, abs=1e-4
    )


def test_lengths_of_capsules_have_no_temperature(
    source: Source, splits: Splits, tmp_path: Path, photos: Path
) -> None:
    capsules = {"name": "capsnet", "filters": 4, "kernel": 3, "capsules": 2}
    recipe = tiny_recipe(objective="margin", network=capsules, epochs=1)
    run = Run.create(tmp_path / "run", recipe, photos, splits)
    train(run, source, splits)
    assert export(run, tmp_path / "models", photos).manifest.temperature is None
