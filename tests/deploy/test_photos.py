"""The photos that are shipped: real ones, each with its source and a licence that lets us."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

ANIMALS = ("bird", "cat", "deer", "dog", "frog", "horse")
VEHICLES = ("airplane", "automobile", "ship", "truck")
PHOTOS = sorted((Path(__file__).resolve().parents[2] / "examples/photos").glob("*.jpg"))


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda photo: photo.name)
def test_photo_is_credited_and_free(photo: Path) -> None:
    sources = photo.with_name("SOURCES.md").read_text()
    row = re.search(rf"^\| `{photo.name}` \|(.*)\|$", sources, re.MULTILINE)
    assert row is not None
    shows, author, licence, original = (cell.strip() for cell in row[1].split("|"))
    assert licence in ("CC0 1.0", "public domain")
    assert author
    assert "http" in original
    assert shows.startswith(f"{photo.stem.partition('-')[0]}:")


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda photo: photo.name)
def test_photo_is_of_a_known_class_and_a_usual_size(photo: Path) -> None:
    assert photo.stem.partition("-")[0] in ANIMALS + VEHICLES
    with Image.open(photo) as image:
        assert image.format == "JPEG"
        assert 300 <= min(image.size) <= max(image.size) <= 1600


def test_photos_are_few_and_small() -> None:
    assert 6 <= len(PHOTOS) <= 10
    assert sum(photo.stat().st_size for photo in PHOTOS) < 3_000_000
