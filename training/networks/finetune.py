"""Networks of torchvision that start from weights trained on another set, or from random ones.

The last linear layer is always new. Everything before it can be frozen for the first epochs, so
that the large gradients of a head that knows nothing yet do not spoil what the weights know.
Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlparse

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torchvision import models

from training.errors import TrainingError, first_line

SMALLEST_SIDE = 32
"""Pixels; five times halved, they leave the last maps a place."""

COUNTER = "num_batches_tracked"
"""Of batch normalisation; files from before PyTorch 0.4.1 have none, and nothing here reads it."""


class FinetuneParameters(BaseModel):
    """What a recipe may set under `[network]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Literal[
        "resnet18", "resnet50", "mobilenet_v3_small", "mobilenet_v3_large",
        "efficientnet_b0", "convnext_tiny",
    ] = "resnet18"  # fmt: skip
    weights: str = "none"
    """`none`: random ones; `cache`: those for ImageNet in torchvision's cache on this machine; else
    the path of a file with a state dict."""
    freeze_epochs: Annotated[int, Field(ge=0)] = 0
    """Epochs during which only the last layer learns."""


class Finetune(nn.Module):
    """Images, normalised, (B, 3, H, W), to logits (B, K)."""

    # Those of ImageNet, by which torchvision's weights were trained.
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def __init__(
        self, input_shape: tuple[int, int, int], classes: int, parameters: FinetuneParameters
    ) -> None:
        super().__init__()
        channels, *sides = input_shape
        if channels != 3:
            raise ValueError(f"{parameters.architecture} takes colour images: set channels = 3")
        if min(sides) < SMALLEST_SIDE:
            raise ValueError(
                f"{parameters.architecture} takes images of at least {SMALLEST_SIDE} pixels a "
                f"side, these have {sides[0]} x {sides[1]}"
            )
        self.settings = parameters
        self.model = models.get_model(parameters.architecture, weights=None, num_classes=classes)
        layers = self.model.named_modules()
        self.head = [name for name, layer in layers if isinstance(layer, nn.Linear)][-1] + "."
        self.frozen = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, K)."""
        logits: Tensor = self.model(x)
        return logits

    def train(self, mode: bool = True) -> Self:
        """As any module, but a frozen network keeps its statistics and drops nothing out."""
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self

    def begin_epoch(self, epoch: int) -> bool:
        """Freeze or unfreeze for the epoch, from 1; returns whether that changes what learns."""
        before, self.frozen = self.frozen, epoch <= self.settings.freeze_epochs
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(not self.frozen or name.startswith(self.head))
        return before != self.frozen

    @property
    def pretrained(self) -> bool:
        """Whether the recipe names weights to start from."""
        return self.settings.weights != "none"

    def load_pretrained(self) -> None:
        """Read the weights that the recipe names, all but the last layer's. Raises: TrainingError
        where they are missing or another architecture's."""
        architecture = self.settings.architecture
        if self.settings.weights == "cache":
            file = cached_file(architecture)
        else:
            file = Path(self.settings.weights)
        found = {k: v for k, v in read_weights(file).items() if not k.startswith(self.head)}
        wanted = {k: v for k, v in self.model.state_dict().items() if not k.startswith(self.head)}
        if problem := first_mismatch(found, wanted):
            raise TrainingError(f"{file}: not the weights of {architecture}: {problem}")
        self.model.load_state_dict(found, strict=False)


def cached_file(architecture: str) -> Path:
    """Where torchvision keeps an architecture's weights for ImageNet.

    Raises: TrainingError where they are not there, with the address to fetch them from.
    """
    url = models.get_model_weights(architecture).DEFAULT.url
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not file.is_file():
        raise TrainingError(
            f"{file}: not in torchvision's cache; fetch {url} there, or set network.weights to "
            "a file of yours, or to none for random ones"
        )
    return file


def read_weights(file: Path) -> dict[str, Tensor]:
    """A state dict. Raises: TrainingError."""
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise TrainingError(f"{file}: {error.strerror}; network.weights names it") from None
    except Exception as error:  # torch.load raises whatever its unpickler does
        raise TrainingError(f"{file}: not readable: {first_line(error)}") from None
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and torch.is_tensor(one) for name, one in loaded.items()
    ):
        raise TrainingError(f"{file}: not a state dict, which holds weights by name alone")
    return loaded


def first_mismatch(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str | None:
    """The first key that is missing, of another shape, or too many, in the network's order."""
    for key, weight in wanted.items():
        if key not in found and not key.endswith(COUNTER):
            return f"it has no {key!r}"
        if key in found and found[key].shape != weight.shape:
            shapes = (tuple(one.shape) for one in (found[key], weight))
            return "{!r} is of shape {}, not {}".format(key, *shapes)
    spare = next((key for key in found if key not in wanted), None)
    return spare and f"{spare!r} is not in that architecture"
