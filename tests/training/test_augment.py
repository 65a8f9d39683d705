"""Augmentation: each image gets its own, shape and dtype stay, and nothing else is invented."""

from __future__ import annotations

import pytest
import torch

from training.augment import GREY, Augment, Cutout, Flip, RandomShift, make_augmentation
from training.recipe import Augmentation

IMAGES = torch.arange(2 * 3 * 12 * 12, dtype=torch.uint8).reshape(2, 3, 12, 12)
MANY = IMAGES[:1].expand(64, -1, -1, -1)


def augmentation(*settings: dict[str, object]) -> Augment:
    values = {key: value for one in settings for key, value in one.items()}
    return make_augmentation(Augmentation.model_validate(values), 12, 12)


EVERYTHING: list[dict[str, object]] = [
    {"resize_scale": 0.5},
    {"rotation": 20.0},
    {"crop_padding": 3},
    {"flip": True},
    {"color_jitter": 0.4, "hue_jitter": 0.1},
    {"grayscale": 0.5},
    {"jpeg": 1.0, "jpeg_quality": [10, 90]},
    {"cutout": 5},
]


@pytest.mark.parametrize("settings", EVERYTHING, ids=lambda settings: next(iter(settings)))
def test_images_of_a_batch_are_changed_apart(settings: dict[str, object]) -> None:
    torch.manual_seed(0)
    augment = augmentation(settings)
    changed = augment(MANY, augment.draw(len(MANY)))
    assert (changed.shape, changed.dtype) == (MANY.shape, torch.uint8)
    assert len(torch.unique(changed, dim=0)) > 1


def test_without_settings_nothing_changes() -> None:
    augment = augmentation()
    assert torch.equal(augment(IMAGES, augment.draw(2)), IMAGES)


def test_what_is_drawn_decides_image_by_image() -> None:
    augment = augmentation(*EVERYTHING)
    numbers = augment.draw(64)
    whole = augment(MANY, numbers)
    parts = [augment(MANY[part], numbers[part]) for part in (slice(0, 5), slice(5, 64))]
    assert torch.equal(torch.cat(parts), whole)


def test_the_global_generator_is_left_alone() -> None:
    augment = augmentation(*EVERYTHING)
    numbers, before = augment.draw(64), torch.get_rng_state()
    augment(MANY, numbers)
    assert torch.equal(torch.get_rng_state(), before)


def test_flip_mirrors_or_leaves() -> None:
    results = Flip()(MANY, torch.linspace(0, 0.999, 64)[:, None])
    assert torch.equal(results[:32], MANY[:32].flip(-1))
    assert torch.equal(results[32:], MANY[32:])


def test_shift_cuts_windows_of_the_mirrored_image() -> None:
    torch.manual_seed(0)
    padded = torch.nn.functional.pad(MANY[:1], (1, 1, 1, 1), mode="reflect")[0]
    windows = {
        padded[:, down : down + 12, right : right + 12].numpy().tobytes()
        for down in range(3)
        for right in range(3)
    }
    shifted = RandomShift(1)(MANY, torch.rand(64, 2))
    assert {image.numpy().tobytes() for image in shifted} == windows


def test_cutout_hides_a_square_that_may_leave_the_image() -> None:
    images = torch.zeros(2, 3, 12, 12, dtype=torch.uint8)
    middle, corner = Cutout(4)(images, torch.tensor([[0.5, 0.5], [0.0, 0.999]]))
    assert (middle[:, 4:8, 4:8] == GREY).all()
    assert (middle == GREY).sum() == 3 * 16
    assert (corner[:, :2, 9:] == GREY).all()
    assert (corner == GREY).sum() == 3 * 6


def test_grey_images_stay_as_they_are() -> None:
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    augment = make_augmentation(Augmentation(grayscale=0.5), 8, 8)
    assert torch.equal(augment(images, augment.draw(4)), images)
