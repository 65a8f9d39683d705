"""Changes to training images, so that the network learns what does not matter.

Where torchvision draws one random number for a whole batch, `Each` applies a transform image by
image. The two cheap ones that nearly every recipe uses are done here for the batch at once:
image by image they would cost more than the training of a small network.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from training.recipe import Augmentation


class Each(nn.Module):
    """Apply a transform with fresh random numbers to each image of a batch, or to some of them."""

    def __init__(self, transform: nn.Module, probability: float = 1.0) -> None:
        super().__init__()
        self.transform = transform
        self.probability = probability

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) to the same."""
        chosen = torch.rand(len(images)) < self.probability
        changed = [
            self.transform(image) if yes else image
            for image, yes in zip(images, chosen.tolist(), strict=True)
        ]
        return torch.stack(changed)


class RandomShift(nn.Module):
    """Cut each image anew out of itself with a mirrored border of `padding` pixels."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.padding = padding

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) to the same."""
        count, _, height, width = images.shape
        padded = F.pad(images, (self.padding,) * 4, mode="reflect")
        windows = padded.unfold(2, height, 1).unfold(
            3, width, 1
        )  # (B, C, 2P+1, 2P+1, H, W), a view
        down, right = torch.randint(0, 2 * self.padding + 1, (2, count))
        return windows[torch.arange(count), :, down, right]


class RandomFlip(nn.Module):
    """Mirror each image left and right, half of the time."""

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) to the same."""
        mirrored = torch.rand(len(images), 1, 1, 1) < 0.5
        return torch.where(mirrored, images.flip(-1), images)


def make_augmentation(settings: Augmentation, height: int, width: int) -> nn.Module:
    """The recipe's changes in a fixed order: shape, then colour, then compression.

    The result maps uint8 (B, C, H, W) to the same and draws from torch's global generator.
    """
    steps: list[nn.Module] = []
    if settings.resize_scale < 1.0:
        scale = (settings.resize_scale, 1.0)
        steps.append(Each(v2.RandomResizedCrop((height, width), scale=scale, antialias=True)))
    if settings.rotation > 0.0:
        bilinear = v2.InterpolationMode.BILINEAR
        steps.append(Each(v2.RandomRotation(settings.rotation, interpolation=bilinear)))
    if settings.crop_padding > 0:
        steps.append(RandomShift(settings.crop_padding))
    if settings.flip:
        steps.append(RandomFlip())
    if settings.color_jitter > 0.0 or settings.hue_jitter > 0.0:
        change = settings.color_jitter
        steps.append(Each(v2.ColorJitter(change, change, change, settings.hue_jitter)))
    if settings.grayscale > 0.0:
        steps.append(Each(v2.Grayscale(num_output_channels=3), settings.grayscale))
    if settings.jpeg > 0.0:
        steps.append(Each(v2.JPEG(settings.jpeg_quality), settings.jpeg))
    return nn.Sequential(*steps)
