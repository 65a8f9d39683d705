from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.colours import tiny_recipe, write_photos
from training.datasets import Source, Splits, open_source, split_training


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 pictures of each of three colours, in one folder per class."""
    return write_photos(tmp_path_factory.mktemp("photos") / "colours", 20)


@pytest.fixture(scope="session")
def source(photos: Path) -> Source:
    return open_source(tiny_recipe(), photos)


@pytest.fixture(scope="session")
def splits(source: Source) -> Splits:
    return split_training(source, tiny_recipe())
