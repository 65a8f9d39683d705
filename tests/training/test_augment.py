"""Augmentation: each image gets its own, shape and dtype stay, and nothing else is invented."""

from __future__ import annotations

import pytest
import torch

from training.augment import RandomFlip, RandomShift, make_augmentation
from training.recipe import Augmentation

IMAGES = torch.arange(2 * 3 * 12 * 12, dtype=torch.uint8).reshape(2, 3, 12, 12)
MANY = IMAGES[:1].expand(64, -1, -1, -1)

EVERYTHING: list[dict[str, object]] = [
    {"resize_scale": 0.5},
    {"rotation": 20.0},
    {"crop_padding": 3},
    {"flip": True},
    {"color_jitter": 0.4, "hue_jitter": 0.1},
    {"grayscale": 0.5},
    {"jpeg": 1.0, "jpeg_quality": [10, 90]},
]


@pytest.mark.parametrize("settings", EVERYTHING, ids=lambda settings: next(iter(settings)))
def test_images_of_a_batch_are_changed_apart(settings: dict[str, object]) -> None:
    torch.manual_seed(0)
    augment = make_augmentation(Augmentation.model_validate(settings), 12, 12)
    changed = augment(MANY)
    assert (changed.shape, changed.dtype) == (MANY.shape, torch.uint8)
    assert len(torch.unique(changed, dim=0)) > 1


def test_without_settings_nothing_changes() -> None:
    assert torch.equal(make_augmentation(Augmentation(), 12, 12)(IMAGES), IMAGES)


def test_the_seed_decides() -> None:
    settings = {key: value for one in EVERYTHING for key, value in one.items()}
    augment = make_augmentation(Augmentation.model_validate(settings), 12, 12)
    torch.manual_seed(7)
    first = augment(IMAGES)
    torch.manual_seed(7)
    assert torch.equal(augment(IMAGES), first)


def test_flip_mirrors_or_leaves() -> None:
    torch.manual_seed(0)
    results = torch.unique(RandomFlip()(MANY), dim=0)
    expected = torch.unique(torch.stack([MANY[0], MANY[0].flip(-1)]), dim=0)
    assert torch.equal(results, expected)


def test_shift_cuts_windows_of_the_mirrored_image() -> None:
    torch.manual_seed(0)
    padded = torch.nn.functional.pad(MANY[:1], (1, 1, 1, 1), mode="reflect")[0]
    windows = {
        padded[:, down : down + 12, right : right + 12].numpy().tobytes()
        for down in range(3)
        for right in range(3)
    }
    assert {image.numpy().tobytes() for image in RandomShift(1)(MANY)} == windows
