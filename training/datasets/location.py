"""Where data sets lie when nobody says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from training.errors import TrainingError

DEFAULT = Path("..") / "shared" / "data"
CACHE = Path(".cache") / "data"


def find_data(source: str, given: Path | None, *, download: bool = False) -> Path:
    """The folder to look for a source in: the given one as it is, or what CONVOY_DATA points to.

    A collection that comes packed, with an unpack.py, is laid out under .cache/data first.

    Raises: TrainingError naming what to set.
    """
    if given is not None:
        if not given.is_dir() and not download:
            raise TrainingError(f"{given}: no such folder; --data names the data set's folder")
        return given
    if source == "folder":
        raise TrainingError("name your images' folder with --data; it holds one folder per class")
    collection = Path(os.environ.get("CONVOY_DATA", DEFAULT))
    if (collection / "unpack.py").is_file():
        return _unpack(collection, source)
    if collection.is_dir():
        return collection
    if download:
        return CACHE
    raise TrainingError(
        f"no data for {source}: name its folder with --data or CONVOY_DATA, or add --download"
    )


def _unpack(collection: Path, source: str) -> Path:
    done = subprocess.run(
        [sys.executable, collection / "unpack.py", CACHE, source], capture_output=True, text=True
    )
    if done.returncode:
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise TrainingError(f"{collection / 'unpack.py'}: {reason}")
    return CACHE
