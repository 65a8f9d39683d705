"""The batched JPEG of GPUs, against libjpeg."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as v2

from training.augment import make_augmentation
from training.jpeg import through_jpeg
from training.recipe import Augmentation


def scenes(channels: int, height: int, width: int) -> Tensor:
    """Soft shapes with some noise, as photos have, uint8 (16, C, H, W)."""
    generator = torch.Generator().manual_seed(0)
    coarse = 255 * torch.rand(16, channels, 6, 6, generator=generator)
    soft = F.interpolate(coarse, (height, width), mode="bicubic")
    noisy = soft + 6 * torch.randn(soft.shape, generator=generator)
    return noisy.clamp(0, 255).to(torch.uint8)


def distance(one: Tensor, other: Tensor) -> float:
    """Levels, on average."""
    return float((one.int() - other.int()).abs().float().mean())


@pytest.mark.parametrize("quality", [10, 50, 75, 95])
@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 29, 43), (1, 32, 32), (1, 17, 8)])
def test_it_loses_what_libjpeg_loses(shape: tuple[int, int, int], quality: int) -> None:
    images = scenes(*shape)
    theirs = torch.stack([v2.jpeg(image, quality) for image in images])
    ours = through_jpeg(images, torch.full((16,), quality))
    assert ours.dtype == torch.uint8
    # libjpeg's cosines are integers, so a frequency between two steps may fall to the other one.
    assert distance(ours, theirs) < 0.3 * distance(theirs, images)


def test_each_image_has_a_quality_of_its_own() -> None:
    images = scenes(3, 32, 32)
    together = through_jpeg(images, torch.arange(16) * 6 + 1)
    alone = [through_jpeg(images[i : i + 1], torch.tensor([i * 6 + 1])) for i in range(16)]
    assert torch.equal(together, torch.cat(alone))


def test_images_on_a_device_are_changed_there() -> None:
    settings = {"crop_padding": 2, "flip": True, "jpeg": 0.5, "cutout": 4}
    augment = make_augmentation(Augmentation.model_validate(settings), 32, 32)
    images = scenes(3, 32, 32).to("meta")  # a device without contents: reading it would fail
    changed = augment(images, augment.draw(16))
    assert augment.batched
    assert (changed.device.type, changed.shape, changed.dtype) == (
        "meta",
        images.shape,
        torch.uint8,
    )
