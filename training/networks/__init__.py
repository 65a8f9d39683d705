"""The table of networks: a new one is a file beside this and a row here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from training.errors import TrainingError, first_line
from training.networks.alexnet import AlexNet, AlexNetParameters
from training.networks.capsnet import CapsNet, CapsNetParameters
from training.networks.cnn import Cnn, CnnParameters
from training.networks.fast import Fast, FastParameters
from training.networks.finetune import Finetune, FinetuneParameters
from training.networks.lenet import LeNet, LeNetParameters
from training.networks.mlp import Mlp, MlpParameters
from training.networks.resnet import ResNet, ResNetParameters
from training.networks.vgg import Vgg, VggParameters
from training.recipe import Network, describe


@runtime_checkable
class Prepared(Protocol):
    """A network that measures some of its weights instead of learning them."""

    def prepare(self, images: Tensor) -> None:
        """Set them from training images, normalised, (N, C, H, W)."""


@runtime_checkable
class Pretrained(Protocol):
    """A network that can start from weights trained elsewhere, and learn in stages."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Of the pixels, 0 to 1, that the weights were trained on, per channel."""
    pretrained: bool
    """Whether its recipe names weights."""

    def load_pretrained(self) -> None:
        """Read them. Raises: TrainingError."""

    def begin_epoch(self, epoch: int) -> bool:
        """Set what learns in an epoch, from 1; returns whether that has changed."""


class Entry(NamedTuple):
    """What a recipe may set, and what makes the network of it."""

    parameters: type[BaseModel]
    make: Callable[[tuple[int, int, int], int, Any], nn.Module]
    """(channels, height, width), number of classes, parameters."""


NETWORKS: dict[str, Entry] = {
    "alexnet": Entry(AlexNetParameters, AlexNet),
    "capsnet": Entry(CapsNetParameters, CapsNet),
    "cnn": Entry(CnnParameters, Cnn),
    "fast": Entry(FastParameters, Fast),
    "finetune": Entry(FinetuneParameters, Finetune),
    "lenet": Entry(LeNetParameters, LeNet),
    "mlp": Entry(MlpParameters, Mlp),
    "resnet": Entry(ResNetParameters, ResNet),
    "vgg": Entry(VggParameters, Vgg),
}


def make_network(network: Network, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Make a recipe's network: normalised images (B, C, H, W) to logits (B, K).

    Raises: TrainingError naming the key that it does not know or take.
    """
    entry = NETWORKS.get(network.name)
    if entry is None:
        known = ", ".join(sorted(NETWORKS))
        raise TrainingError(f"network.name: there is no {network.name!r}, only {known}")
    try:
        parameters = entry.parameters.model_validate(network.parameters)
    except ValidationError as error:
        raise TrainingError(f"network: {describe(error, entry.parameters)}") from None
    try:
        return entry.make(input_shape, classes, parameters)
    except (ValueError, RuntimeError) as error:  # the second where there is no memory for it
        raise TrainingError(f"network: {first_line(error)}") from None
