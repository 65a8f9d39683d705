"""Changes to training images, so that the network learns what does not matter.

A row of random numbers decides what becomes of an image. So a batch can be cut up among processes
and each part still comes out as it would in the whole.

Where torchvision draws one random number for a whole batch, `Each` applies a transform image by
image. Those that nearly every recipe uses are done here for the batch at once: image by image they
would cost more than the training of a small network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from training.errors import TrainingError
from training.jpeg import through_jpeg
from training.recipe import Augmentation

GREY = 127
"""Near the mean of photos, so that what is hidden says nothing either way."""


class Change(Protocol):
    """One way to change images."""

    draws: int
    """Random numbers that an image takes."""

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """uint8 (B, C, H, W) to the same, by numbers (B, draws) from 0 to 1."""


class Each:
    """Apply a transform with fresh random numbers to each image of a batch, or to some of them."""

    draws = 2

    def __init__(self, transform: nn.Module, probability: float = 1.0) -> None:
        self.transform = transform
        self.probability = probability

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """uint8 (B, C, H, W) to the same, on the CPU."""
        chosen = (numbers[:, 0] < self.probability).tolist()
        seeds = (numbers[:, 1] * 2**32).long().tolist()
        changed = []
        # The transforms know only the global generator, which belongs to whoever trains.
        with torch.random.fork_rng(devices=()):
            for image, yes, seed in zip(images, chosen, seeds, strict=True):
                torch.default_generator.manual_seed(seed)
                changed.append(self.transform(image) if yes else image)
        return torch.stack(changed)


class RandomShift:
    """Cut each image anew out of itself with a mirrored border of `padding` pixels."""

    draws = 2

    def __init__(self, padding: int) -> None:
        self.padding = padding

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """uint8 (B, C, H, W) to the same."""
        count, _, height, width = images.shape
        padded = F.pad(images, (self.padding,) * 4, mode="reflect")
        # (B, C, 2P+1, 2P+1, H, W), a view
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        down, right = (numbers * (2 * self.padding + 1)).long().unbind(dim=1)
        return windows[torch.arange(count, device=images.device), :, down, right]


class Flip:
    """Mirror each image left and right, half of the time."""

    draws = 1

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """uint8 (B, C, H, W) to the same."""
        mirrored = (numbers < 0.5).reshape(-1, 1, 1, 1)
        return torch.where(mirrored, images.flip(-1), images)

    @staticmethod
    def alternating(first: Tensor, epoch: int) -> Tensor:
        """The numbers of images, float64 (B), whose numbers were `first` in epoch 1.

        Each image is mirrored in every other epoch: two epochs then show both of its sides, where
        chance shows the same one twice for half of the images. Jordan, "94% on CIFAR-10 in 3.29
        Seconds on a Single GPU", 2024.
        """
        return first if epoch % 2 else 1.0 - first


class Cutout:
    """Paint a square of `side` pixels grey, its centre anywhere in the image.

    DeVries, Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017.
    """

    draws = 2

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """uint8 (B, C, H, W) to the same."""
        height, width = images.shape[2:]
        down = self._hidden(height, numbers[:, 0])
        right = self._hidden(width, numbers[:, 1])
        return images.masked_fill(down[:, None, :, None] & right[:, None, None, :], GREY)

    def _hidden(self, length: int, numbers: Tensor) -> Tensor:
        """Which rows, or columns, of each image the square covers: bool (B, length)."""
        first = (numbers * length).long()[:, None] - self.side // 2
        places = torch.arange(length, device=numbers.device)
        return (places >= first) & (places < first + self.side)


class Jpeg:
    """Pass some images through JPEG, each at a quality of its own."""

    draws = 2

    def __init__(self, probability: float, quality: tuple[int, int]) -> None:
        self.probability = probability
        self.lowest, self.highest = quality
        # Half the time of tensor operations on a CPU, but one image after the other.
        self.by_libjpeg = Each(v2.JPEG(quality), probability)

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """uint8 (B, C, H, W) to the same, on the images' device."""
        if images.device.type == "cpu":
            return self.by_libjpeg(images, numbers)
        chosen = (numbers[:, 0] < self.probability).reshape(-1, 1, 1, 1)
        span = self.highest + 1 - self.lowest
        quality = self.lowest + (numbers[:, 1] * span).long()
        return torch.where(chosen, through_jpeg(images, quality), images)


class Augment:
    """All changes of a recipe, one after the other."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self.changes = changes

    @property
    def batched(self) -> bool:
        """Whether nothing is done image by image, so that a GPU does it best."""
        return not any(isinstance(change, Each) for change in self.changes)

    def flips(self) -> int | None:
        """Which of an image's random numbers decides whether it is mirrored."""
        column = 0
        for change in self.changes:
            if isinstance(change, Flip):
                return column
            column += change.draws
        return None

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """The random numbers of `count` images, (count, draws); by default global ones."""
        draws = sum(change.draws for change in self.changes)
        return torch.rand(count, draws, generator=generator, dtype=torch.float64)

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """uint8 (B, C, H, W) to the same, by what was drawn for them."""
        sizes = [change.draws for change in self.changes]
        parts = torch.split(numbers.to(images.device), sizes, dim=1)
        for change, part in zip(self.changes, parts, strict=True):
            images = change(images, part)
        return images


def make_augmentation(settings: Augmentation, height: int, width: int) -> Augment:
    """The recipe's changes in a fixed order: shape, colour, compression, what is hidden.

    Raises: TrainingError where the images are too small for one.
    """
    changes: list[Change] = []
    if settings.resize_scale < 1.0:
        scale = (settings.resize_scale, 1.0)
        changes.append(Each(v2.RandomResizedCrop((height, width), scale=scale, antialias=True)))
    if settings.rotation > 0.0:
        bilinear = v2.InterpolationMode.BILINEAR
        changes.append(Each(v2.RandomRotation(settings.rotation, interpolation=bilinear)))
    if settings.crop_padding >= min(height, width):
        raise TrainingError(
            f"augmentation.crop_padding: images of {height} x {width} have no "
            f"{settings.crop_padding} pixels to mirror at the border"
        )
    if settings.crop_padding > 0:
        changes.append(RandomShift(settings.crop_padding))
    if settings.flip:
        changes.append(Flip())
    if settings.color_jitter > 0.0 or settings.hue_jitter > 0.0:
        change = settings.color_jitter
        changes.append(Each(v2.ColorJitter(change, change, change, settings.hue_jitter)))
    if settings.grayscale > 0.0:
        changes.append(Each(v2.RandomGrayscale(p=1.0), settings.grayscale))
    if settings.jpeg > 0.0:
        changes.append(Jpeg(settings.jpeg, settings.jpeg_quality))
    if settings.cutout > 0:
        changes.append(Cutout(settings.cutout))
    return Augment(changes)
