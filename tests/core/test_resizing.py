"""Resampling in SIMD: nobody who knows Pillow's `resize` may see the difference."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from PIL import Image

from convoy.bundle import Bundle
from convoy.imaging import decode
from convoy.resizing import Box, Interpolation, resize

pytest.importorskip("cykooz_resizer", reason="cykooz.resizer is not installed")

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "models" / "cifar10" / "2"
PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
CASES = 400

# Saves the pixels of a folder's photos, as decoded where only Pillow is installed.
WITHOUT_RESIZER = """
import sys
sys.modules["cykooz_resizer"] = None
import numpy as np
from pathlib import Path
from convoy.imaging import InputSpec, decode
spec = InputSpec.model_validate_json(sys.argv[2])
files = sorted(Path(sys.argv[1]).glob("*/*.jpg"))
np.save(sys.argv[3], np.stack([decode(file.read_bytes(), spec) for file in files]))
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


@pytest.mark.parametrize(("interpolation", "levels"), [("bilinear", 1), ("bicubic", 2)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pillow_gives_the_same_pixels_but_for_a_level_here_and_there(
    mode: str, interpolation: Interpolation, levels: int
) -> None:
    chance, values, off = np.random.default_rng(0), 0, 0
    for case in range(CASES):
        width, height, *size = chance.integers(1, 200, 4).tolist()
        image = noise(width, height, mode, chance)
        box = a_part(width, height, chance) if case % 2 else (0, 0, width, height)
        levels_off = difference(image, (size[0], size[1]), interpolation, box)
        assert np.max(levels_off) <= levels, (width, height, size, box)
        values, off = values + levels_off.size, off + np.count_nonzero(levels_off)
    assert off < 0.01 * values


def test_large_images_are_shrunk_by_a_whole_factor_first() -> None:
    image = noise(600, 480, "RGB", np.random.default_rng(0))
    assert not np.any(difference(image, (60, 80), "bilinear", (0, 0, 600, 480)))


def test_photos_keep_their_labels_without_the_resizer(data: Path, tmp_path: Path) -> None:
    bundle, folder = Bundle.open(SHIPPED), data / "flowers"
    spec, saved = bundle.manifest.input, tmp_path / "pixels.npy"
    arguments = [folder, spec.model_dump_json(), saved]
    subprocess.run([sys.executable, "-c", WITHOUT_RESIZER, *arguments], check=True, timeout=60)
    from_pillow = np.load(saved)
    photos = [file.read_bytes() for file in sorted(folder.glob("*/*.jpg"))]
    pixels = np.stack([decode(photo, spec) for photo in photos])
    assert np.abs(pixels.astype(int) - from_pillow).max() == 1
    network = ort.InferenceSession(bundle.model_path, providers=["CPUExecutionProvider"])
    labels = [
        np.argmax(network.run(None, {"images": images})[0], axis=1)
        for images in (pixels, from_pillow)
    ]
    assert np.array_equal(*labels)
