"""Recipes: what a training run does, as short TOML files of differences from the defaults here.

A recipe is validated as a whole before anything heavy starts; an unknown key is an error.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from convoy.manifest import Name
from training.errors import TrainingError

SHIPPED = Path(__file__).parent / "recipes"

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
JpegQuality = Annotated[int, Field(ge=1, le=100)]
NonNegative = Annotated[float, Field(ge=0.0)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Network(BaseModel):
    """`[network]`: its name in the registry; the keys beside it are that network's own."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str = "cnn"

    @property
    def parameters(self) -> dict[str, Any]:
        """The network's own keys, which the registry validates."""
        return dict(self.model_extra or {})


class Augmentation(_Table):
    """`[augmentation]`: what happens to training images, in this order. All off by default."""

    resize_scale: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Smallest share of the area that a random crop, resized back, keeps; 1 turns it off."""
    rotation: Annotated[float, Field(ge=0.0, le=180.0)] = 0.0
    """Largest angle in degrees, either way."""
    crop_padding: Annotated[int, Field(ge=0, le=64)] = 0
    """Pixels of mirrored border around the image, out of which a crop of its size is cut."""
    flip: bool = False
    """Mirror left and right in every other epoch, half of the images in the first."""
    color_jitter: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Largest relative change of brightness, contrast and saturation."""
    hue_jitter: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """Largest shift of the hue, as a share of the colour circle."""
    grayscale: Probability = 0.0
    """Probability of taking the colour out."""
    jpeg: Probability = 0.0
    """Probability of encoding the image as JPEG and decoding it again."""
    jpeg_quality: tuple[JpegQuality, JpegQuality] = (60, 95)
    """Range of that JPEG's quality."""

    cutout: Annotated[int, Field(ge=0, le=1024)] = 0
    """Side in pixels of a square that is painted grey, so that no part is relied upon alone."""

    @model_validator(mode="after")
    def _quality_ascends(self) -> Self:
        if self.jpeg_quality[0] > self.jpeg_quality[1]:
            raise ValueError("jpeg_quality must be [lowest, highest]")
        return self


class Recipe(_Table):
    """Everything that decides what a run learns."""

    name: Name
    """Of the bundle: `models/<name>/<version>`."""
    description: str = ""
    """Goes into the manifest: what the model is for, and what not."""
    license: str | None = None
    """Goes into the manifest: SPDX identifier of the terms the weights are under."""

    source: Literal["cifar10", "mnist", "fashion-mnist", "garments", "folder", "table"]
    """`garments`: two articles of Fashion-MNIST in a picture; `folder`: one folder of images per
    class; `table`: a CSV file of images and the labels of each."""
    collection_folder: str | None = None
    """`folder` only: where --data is not given, the folder of that name in the collection that
    CONVOY_DATA points to."""
    image_size: Annotated[int, Field(ge=8, le=1024)] = 64
    """`folder` and `table`: side in pixels of the network's input."""
    resize: Literal["center-crop", "stretch"] = "center-crop"
    """`folder` and `table`: how a photo becomes that square."""
    channels: Literal[1, 3] = 3
    """`folder` and `table`: 1 trains on grey."""
    corrupt_images: Literal["fail", "skip"] = "fail"
    """`folder` only: whether a file that cannot be decoded ends the run or is left out; either way
    the first are named."""
    validation_share: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.1
    """Share of the training images held out to choose the best epoch."""
    test_share: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.15
    """`table`, and `folder` without a test folder: share of the images held out to measure the
    result."""

    network: Network = Network()
    objective: Literal["softmax", "sigmoid", "multi-label", "margin"] = "softmax"
    """What the outputs mean: `softmax` one class of many; `sigmoid` one of two, from one output;
    `multi-label` any number of labels; `margin` lengths of capsules, those of `capsnet`."""
    mirror_averaging: bool = False
    """Classify each image together with its mirror image and average the logits: half a point of
    accuracy for twice the work, which the exported graph does too. Not while training."""
    temperature_scaling: bool = True
    """Calibrate the probabilities on the validation images when exporting, by a temperature that
    the exported graph divides its logits by; changes no label. Not for `margin`."""
    augmentation: Augmentation = Augmentation()

    optimizer: Literal["sgd", "adamw", "rmsprop"] = "sgd"
    """`sgd` is with Nesterov momentum."""
    learning_rate: Positive = 0.1
    """The highest of the schedule, for the mean loss of a batch."""
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """Of `sgd` and `rmsprop`; the first beta of `adamw`."""
    weight_decay: NonNegative = 5e-4
    """Of weights; biases and normalisation are left alone."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of each target that is spread evenly over the classes; not for `margin`."""
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    warmup_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.25
    """`one-cycle` only: share of the steps during which the learning rate rises."""
    epochs: Annotated[int, Field(ge=1)] = 10
    batch_size: Annotated[int, Field(ge=1)] = 128
    accumulation: Annotated[int, Field(ge=1)] = 1
    """Parts in which a batch is computed, where the memory does not hold it as a whole."""
    clip_norm: NonNegative = 0.0
    """Largest norm of the gradient; longer ones are shortened to it. 0 leaves them."""
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Decay of a moving average of the weights, which is then what is evaluated and exported:
    0.999 averages about 1,000 steps. 0 turns it off."""
    class_balance: Literal["none", "weights", "sampling"] = "none"
    """Where classes differ in size: `weights` weighs losses by the inverse of it, `sampling` draws
    images of every class equally often."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after so many epochs without a better one on the validation images, in accuracy or,
    where that is equal, in loss; by default never."""
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "auto"
    """`bf16`: autocast; `fp16`: with scaled losses too, for GPUs without bf16; `auto`: bf16 where
    the hardware computes it natively."""
    compile: bool = False
    """Let torch.compile make code for the network: a minute at the start for faster steps."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of the splits, the first weights, the order of images and their augmentation."""

    @model_validator(mode="after")
    def _objective_fits_the_source(self) -> Self:
        several = self.source in ("garments", "table")
        if several and self.objective != "multi-label":
            raise ValueError(f"objective must be 'multi-label' for source {self.source!r}")
        if self.objective == "multi-label" and not several:
            raise ValueError("objective 'multi-label' needs source 'table' or 'garments'")
        return self

    @model_validator(mode="after")
    def _only_capsules_have_lengths(self) -> Self:
        name = self.network.name
        if self.objective == "margin" and name != "capsnet":
            raise ValueError(f"objective 'margin' needs network.name 'capsnet', not {name!r}")
        return self


OWN_PHOTOS = ("folder", "table")
READ_BY: dict[str, tuple[str, ...]] = {
    "collection_folder": ("folder",),
    "corrupt_images": ("folder",),
    **dict.fromkeys(("image_size", "resize", "channels", "test_share"), OWN_PHOTOS),
}
"""Keys that only some sources read."""


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a shipped recipe by name, or any by path, and apply `key=value` overrides.

    Raises: TrainingError naming the file and the key.
    """
    shipped = {file.stem: file for file in SHIPPED.glob("*.toml")}
    path = shipped.get(name, Path(name))
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        names = ", ".join(sorted(shipped))
        raise TrainingError(
            f"no recipe {name!r}: give the path of a TOML file or one of {names}"
        ) from None
    except OSError as error:
        raise TrainingError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # TOML's and UTF-8's errors, and [[[[ without end
        raise TrainingError(f"{path}: not a TOML file: {error}") from None
    for override in overrides:
        _apply(values, override)
    recipe = parse_recipe(values, where=str(path))
    _require_read(recipe, {override.partition("=")[0] for override in overrides}, where=path)
    return recipe


def parse_recipe(values: Mapping[str, Any], *, where: str) -> Recipe:
    """Validate a recipe. Raises: TrainingError naming `where` and the key."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise TrainingError(f"{where}: {describe(error, Recipe)}") from None


def differing_keys(one: Recipe, other: Recipe) -> list[str]:
    """Dotted keys whose values differ, in the recipe's order."""
    return _differences(one.model_dump(), other.model_dump(), "")


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem in one line; for an unknown key, with the nearest valid one."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}{_suggestion(first['loc'], model)}"
    if first["type"] == "missing":
        return f"key {key!r} is missing"
    message = first["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" if key else message


def _suggestion(loc: tuple[int | str, ...], model: type[BaseModel]) -> str:
    for part in loc[:-1]:
        model = model.model_fields[str(part)].annotation  # type: ignore[assignment]
    near = difflib.get_close_matches(str(loc[-1]), model.model_fields, n=1, cutoff=0.5)
    return f"; did you mean {'.'.join([*map(str, loc[:-1]), near[0]])!r}?" if near else ""


def _require_read(recipe: Recipe, typed: Collection[str], *, where: Path) -> None:
    """Raises: TrainingError naming a key that the source would not look at."""
    for key, sources in READ_BY.items():
        # A default in a file says nothing: the recipe in a report has every key.
        given = key in typed or getattr(recipe, key) != Recipe.model_fields[key].default
        if given and recipe.source not in sources:
            readers = " or ".join(map(repr, sources))
            raise TrainingError(
                f"{where}: {key} is for source {readers}, not {recipe.source!r}: leave it out"
            )


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise TrainingError(f"--set {override}: write key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        value = text  # a bare word is meant as a string
    *tables, last = key.split(".")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise TrainingError(f"--set {override}: {table!r} is not a table")
    values[last] = value


def _differences(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str) -> list[str]:
    found: list[str] = []
    for key in dict.fromkeys([*one, *other]):
        here, there = one.get(key), other.get(key)
        if isinstance(here, dict) and isinstance(there, dict):
            found += _differences(here, there, f"{prefix}{key}.")
        elif here != there:
            found.append(f"{prefix}{key}")
    return found
