"""Fine-tuning: weights from a file arrive, freeze, thaw, and nothing is fetched from anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision import models

from convoy.imaging import InputSpec
from tests.training.colours import export, tiny_recipe
from tests.training.stopping import StoppedRun
from training.classifier import Classifier
from training.cli import main
from training.datasets import Source, Splits, open_source, split_training
from training.errors import TrainingError
from training.evaluate import evaluate_bundle, find_tests
from training.networks.finetune import FinetuneParameters
from training.recipe import Recipe
from training.runs import Run
from training.state import State
from training.train import train

SMALLEST = "mobilenet_v3_small"
SPEC = InputSpec(height=64, width=64, channels=3)
ARCHITECTURES = FinetuneParameters.model_json_schema()["properties"]["architecture"]["enum"]


def recipe(weights: object = "none", frozen: int = 0, **changes: object) -> Recipe:
    network = {"name": "finetune", "architecture": SMALLEST}
    network |= {"weights": str(weights), "freeze_epochs": frozen}
    settings = {"image_size": 32, "network": network, "optimizer": "adamw", "learning_rate": 1e-3}
    return tiny_recipe(**(settings | changes))


@pytest.fixture(scope="module")
def photos32(photos: Path) -> Source:
    return open_source(recipe(), photos)


@pytest.fixture(scope="module")
def splits32(photos32: Source) -> Splits:
    return split_training(photos32, recipe())


@pytest.fixture(scope="module")
def donor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that were trained on seven classes, as it were."""
    file = tmp_path_factory.mktemp("weights") / "donor.pt"
    torch.save(models.get_model(SMALLEST, num_classes=7).state_dict(), file)
    return file


def trained(path: Path, wanted: Recipe, source: Source, splits: Splits) -> State:
    return train(Run.create(path, wanted, Path("photos"), splits), source, splits)


def moved(state: State, donor: Path) -> set[str]:
    """Names of the network's numbers that are not the donor's any more."""
    before = torch.load(donor)
    after = state.model.network.model.state_dict()  # type: ignore[union-attr, operator]
    return {
        name
        for name, weight in after.items()
        if before[name].shape != weight.shape or not torch.equal(before[name], weight)
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_only_the_last_layer_is_new(architecture: str) -> None:
    network = {"name": "finetune", "architecture": architecture, "freeze_epochs": 1}
    model = Classifier(tiny_recipe(network=network), SPEC, 5)
    model.begin_epoch(1)
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    assert [weight.shape[0] for weight in learning] == [5, 5]
    assert model.eval()(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape == (2, 5)
    assert model.begin_epoch(2)
    assert all(weight.requires_grad for weight in model.parameters())


def test_random_weights_to_a_bundle(
    tmp_path: Path, photos: Path, photos32: Source, splits32: Splits
) -> None:
    run = Run.create(tmp_path / "run", recipe(frozen=1), photos, splits32)
    assert len(train(run, photos32, splits32).log) == 2
    bundle = export(run, tmp_path / "models", photos)
    assert bundle.manifest.training.network == "finetune"
    assert evaluate_bundle(bundle, find_tests(bundle, photos)) == list(bundle.manifest.quality)


def test_frozen_weights_do_not_move(
    tmp_path: Path, donor: Path, photos32: Source, splits32: Splits
) -> None:
    state = trained(tmp_path, recipe(donor, frozen=2), photos32, splits32)
    assert moved(state, donor) == {"classifier.3.weight", "classifier.3.bias"}
    assert state.model.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_a_run_resumed_at_the_thaw_ends_the_same(
    tmp_path: Path, donor: Path, photos32: Source, splits32: Splits
) -> None:
    wanted = recipe(donor, frozen=1)
    whole = trained(tmp_path / "whole", wanted, photos32, splits32)
    assert moved(whole, donor) == set(torch.load(donor))

    stopped = StoppedRun.create(tmp_path / "parts", wanted, Path("photos"), splits32)
    with pytest.raises(KeyboardInterrupt):
        train(stopped, photos32, splits32)
    resumed = train(Run.open(tmp_path / "parts"), photos32, splits32)
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


def load(weights: object, architecture: str = SMALLEST) -> None:
    network = {"name": "finetune", "architecture": architecture, "weights": str(weights)}
    Classifier(tiny_recipe(network=network), SPEC, 3).load_pretrained()


def test_weights_of_another_architecture_are_refused(donor: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"not the weights of resnet18: it has no 'conv1.weig"):
        load(donor, "resnet18")
    weights = torch.load(donor)
    file = tmp_path / "changed.pt"
    torch.save(weights | {"features.0.0.weight": torch.zeros(4)}, file)
    with pytest.raises(TrainingError, match=r"'features.0.0.weight' is of shape \(4,\), not \(16"):
        load(file)
    torch.save(weights | {"features.99.weight": torch.zeros(4)}, file)
    with pytest.raises(TrainingError, match=r"'features.99.weight' is not in that architecture"):
        load(file)


def test_a_file_that_holds_no_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"gone\.pt: No such file .*; network.weights names it"):
        load(tmp_path / "gone.pt")
    file = tmp_path / "bad.pt"
    file.write_bytes(b"no weights")
    with pytest.raises(TrainingError, match=r"bad\.pt: not readable"):
        load(file)
    file.write_bytes(b"")
    with pytest.raises(TrainingError, match=r"bad\.pt: not readable"):
        load(file)
    for other in ({"model": {"a": torch.zeros(1)}}, {3: torch.zeros(1)}):
        torch.save(other, file)
        with pytest.raises(TrainingError, match=r"bad\.pt: not a state dict"):
            load(file)


def test_the_cache_is_read_and_never_filled(
    tmp_path: Path, donor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(TrainingError, match=r"not in torchvision's cache; fetch https://") as error:
        load("cache")
    file = Path(str(error.value).partition(": ")[0])
    assert not file.parent.exists()
    file.parent.mkdir(parents=True)
    file.write_bytes(donor.read_bytes())
    load("cache")


def test_missing_weights_end_the_command_before_anything_is_written(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", str(photos), "--run", str(tmp_path / "run")]
    assert main(["fit", "finetune", *options, "--set", "network.weights=gone.pt"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "gone.pt: No such file" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 1}, "takes colour images: set channels = 3"),
        ({"image_size": 16}, "at least 32 pixels a side, these have 16 x 16"),
        ({"network": {"name": "finetune", "architecture": "resnet19"}}, "architecture"),
    ],
)
def test_what_it_cannot_take_is_refused(
    photos: Path, changes: dict[str, object], message: str
) -> None:
    wanted = recipe(**changes)
    with pytest.raises(TrainingError, match=message):
        Classifier(wanted, open_source(wanted, photos).spec, 3)
