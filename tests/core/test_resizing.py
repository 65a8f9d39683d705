"""Resizing without Pillow: nobody who knows its `resize` may see the difference."""

from __future__ import annotations

import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
import pytest
from numpy.typing import NDArray
from PIL import Image

from convoy.imaging import InputSpec, decode
from convoy.resizing import Box, Interpolation, resize

pytestmark = [
    pytest.mark.skipif(
        sys.platform == "linux" and platform.machine() != "x86_64",
        reason="cykooz.resizer has no wheels for this machine",
    ),
    pytest.mark.skipif(
        int(PIL.__version__.partition(".")[0]) < 13,
        reason="before its version 13, Pillow always began with the rows",
    ),
]
PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
CASES = 200

# Saves the pixels of a folder's photos, as decoded where only Pillow is installed.
WITHOUT_RESIZER = """
import sys
sys.modules["cykooz_resizer"] = None
import numpy as np
from pathlib import Path
from convoy.imaging import InputSpec, decode
spec = InputSpec(height=224, width=224, channels=3)
files = sorted(Path(sys.argv[1]).glob("*/*.jpg"))
np.save(sys.argv[2], np.stack([decode(file.read_bytes(), spec) for file in files]))
"""


def noise(width: int, height: int, mode: str, chance: np.random.Generator) -> Image.Image:
    return Image.fromarray(chance.integers(0, 256, (height, width, 3), np.uint8)).convert(mode)


def a_part(width: int, height: int, chance: np.random.Generator) -> Box:
    left, right = sorted(chance.uniform(0, width, 2))
    top, bottom = sorted(chance.uniform(0, height, 2))
    return (left, top, right, bottom) if min(right - left, bottom - top) > 1 else (0, 0, 1, 1)


def difference(
    image: Image.Image, size: tuple[int, int], way: Interpolation, box: Box
) -> NDArray[np.int64]:
    """From Pillow, in levels: [H, W] or [H, W, 3]."""
    expected = image.resize(size, PILLOW[way], box, 3.0)
    return np.abs(np.asarray(resize(image, size, way, box), int) - np.asarray(expected, int))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pillow_gives_the_same_pixels_but_for_a_level_here_and_there(
    mode: str, interpolation: Interpolation
) -> None:
    chance, values, off = np.random.default_rng(0), 0, 0
    for case in range(CASES):
        width, height = chance.integers(182, 400, 2).tolist()
        size = chance.integers(1, 300, 2).tolist()
        image = noise(width, height, mode, chance)
        box = a_part(width, height, chance) if case % 2 else (0, 0, width, height)
        levels_off = difference(image, (size[0], size[1]), interpolation, box)
        assert np.max(levels_off) <= 2, (width, height, size, box)
        values, off = values + levels_off.size, off + np.count_nonzero(levels_off)
    assert off < 0.01 * values


@pytest.mark.parametrize(("width", "height"), [(1200, 960), (181, 181)])
def test_small_images_and_those_that_shrink_much_are_left_to_pillow(
    width: int, height: int
) -> None:
    image = noise(width, height, "RGB", np.random.default_rng(0))
    assert not np.any(difference(image, (150, 160), "bilinear", (0, 0, width, height)))


def test_threads_do_not_get_in_each_others_way() -> None:
    images = [noise(300, 200, "RGB", np.random.default_rng(seed)) for seed in range(16)]

    def pixels(image: Image.Image) -> bytes:
        return resize(image, (160, 90), "bilinear", (10.5, 0, 290.5, 200)).tobytes()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(pixels, images)) == list(map(pixels, images))


def test_photos_look_the_same_without_the_resizer(data: Path, tmp_path: Path) -> None:
    folder, saved = data / "flowers", tmp_path / "pixels.npy"
    command = [sys.executable, "-c", WITHOUT_RESIZER, folder, saved]
    subprocess.run(command, check=True, timeout=60)
    spec = InputSpec(height=224, width=224, channels=3)
    photos = [file.read_bytes() for file in sorted(folder.glob("*/*.jpg"))]
    off = np.abs(np.stack([decode(photo, spec) for photo in photos]).astype(int) - np.load(saved))
    assert 1 <= off.max() <= 2
    assert off.mean() < 0.005
