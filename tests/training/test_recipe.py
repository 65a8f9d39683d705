from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from training.errors import TrainingError
from training.networks import make_network
from training.recipe import SHIPPED, Network, differing_keys, load_recipe, parse_recipe
from training.summary import classifier_of

MINIMAL = 'name = "mine"\nsource = "folder"\n'


@pytest.mark.parametrize("file", sorted(SHIPPED.glob("*.toml")), ids=lambda file: file.stem)
def test_shipped_recipes_are_valid(file: Path) -> None:
    classifier, shape = classifier_of(load_recipe(file.stem))
    assert classifier.eval()(torch.zeros((1, *shape), dtype=torch.uint8)).isfinite().all()


@pytest.mark.parametrize("file", sorted(SHIPPED.glob("*.toml")), ids=lambda file: file.stem)
def test_every_number_of_a_shipped_recipe_has_a_reason(file: Path) -> None:
    numbers = [line for line in file.read_text().splitlines() if re.match(r"\w+ = [\d\[]", line)]
    assert [line for line in numbers if "#" not in line and not line.startswith("seed")] == []


def test_path_of_a_toml_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(MINIMAL + "epochs = 3\n")
    assert load_recipe(str(file)).epochs == 3


def test_a_recipe_as_windows_saves_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(MINIMAL + 'description = "größer"\n', encoding="utf-8-sig")
    assert load_recipe(str(file)).description == "größer"


def test_overrides(tmp_path: Path) -> None:
    changed = load_recipe("mnist-cnn", ["epochs=2", "network.filters=[4, 8]", "schedule=one-cycle"])
    assert (changed.epochs, changed.schedule) == (2, "one-cycle")
    assert changed.network.parameters["filters"] == [4, 8]
    assert changed.learning_rate == load_recipe("mnist-cnn").learning_rate


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "unknown key 'epoch'; did you mean 'epochs'?"),
        ("[augmentation]\nflipp = true", "did you mean 'augmentation.flip'?"),
        ("zzzz = 1", "unknown key 'zzzz'"),
        ("epochs = 0", "epochs: Input should be greater than or equal to 1"),
        ('optimizer = "adam"', "optimizer: Input should be 'sgd', 'adamw' or 'rmsprop'"),
        ("[augmentation]\njpeg_quality = [90, 60]", "jpeg_quality must be [lowest, highest]"),
        ('objective = "multi-label"', "objective 'multi-label' needs source 'table' or 'garments'"),
        ("clip_norm = inf", "clip_norm: Input should be a finite number"),
        ("weight_decay = inf", "weight_decay: Input should be a finite number"),
        ('objective = "margin"', "objective 'margin' needs network.name 'capsnet', not 'cnn'"),
        ("epochs = ", "not a TOML file"),
        ("epochs = " + "[" * 3000, "not a TOML file"),
    ],
)
def test_bad_recipe_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(MINIMAL + text)
    with pytest.raises(TrainingError) as caught:
        load_recipe(str(file))
    assert message in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "Value error" not in str(caught.value)  # pydantic's own words


@pytest.mark.parametrize(
    ("recipe", "override", "sources"),
    [
        ("mnist-cnn", "collection_folder=digits", "'folder'"),
        ("image-table", "corrupt_images=skip", "'folder'"),
        ("cifar10-cnn", "image_size=64", "'folder' or 'table'"),
        ("cifar10-cnn", "channels=1", "'folder' or 'table'"),
        ("multi-label", "resize=stretch", "'folder' or 'table'"),
        ("fashion-cnn", "test_share=0.3", "'folder' or 'table'"),
    ],
)
def test_what_a_source_does_not_read_is_refused(recipe: str, override: str, sources: str) -> None:
    key = override.partition("=")[0]
    with pytest.raises(TrainingError, match=f": {key} is for source {sources}, not .*: leave it"):
        load_recipe(recipe, [override])


def test_what_a_source_does_not_read_is_refused_in_a_file_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('name = "mine"\nsource = "mnist"\nimage_size = 32\n')
    with pytest.raises(TrainingError, match=r"mine\.toml: image_size is for source 'folder' or"):
        load_recipe(str(file))


def test_missing_recipe_lists_the_shipped_ones() -> None:
    with pytest.raises(TrainingError, match=r"no recipe 'nope': .*cifar10-fast"):
        load_recipe("nope")


def test_a_name_too_long_for_a_file_is_one_line() -> None:
    with pytest.raises(TrainingError, match="File name too long"):
        load_recipe("x" * 300)


@pytest.mark.parametrize("override", ["epochs", "=3", "name.x=3", "epochs=" + "[" * 3000])
def test_bad_override(override: str) -> None:
    with pytest.raises(TrainingError, match=r"--set|epochs: Input should be"):
        load_recipe("mnist-cnn", [override])


def test_differing_keys_are_dotted() -> None:
    one = load_recipe("mnist-cnn")
    other = load_recipe("mnist-cnn", ["epochs=9", "network.hidden=7", "augmentation.flip=true"])
    expected = ["network.hidden", "augmentation.flip", "epochs"]
    assert differing_keys(one, other) == expected
    assert differing_keys(one, one) == []


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"name": "nope"}, "there is no 'nope', only alexnet, capsnet, cnn"),
        ({"name": "cnn", "filter": [8]}, "unknown key 'filter'; did you mean 'filters'"),
        ({"name": "cnn", "dropout": 2}, "dropout"),
        ({"name": "cnn", "filters": [8] * 6}, "leave stages out"),
        ({"name": "fast", "logit_scale": math.inf}, "logit_scale: Input should be a finite"),
        ({"name": "fast", "widths": [8] * 5}, "need images of 33 pixels a side"),
    ],
)
def test_bad_network(network: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingError, match="network") as caught:
        make_network(Network.model_validate(network), (3, 32, 32), 10)
    assert message in str(caught.value)


def test_defaults_are_filled_in() -> None:
    recipe = parse_recipe({"name": "mine", "source": "mnist"}, where="test")
    assert recipe.network.name == "cnn"
    assert recipe.augmentation.flip is False
