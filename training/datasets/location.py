"""Where data sets lie when nobody says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from training.datasets.layout import is_utf8
from training.errors import TrainingError

DEFAULT = Path("..") / "shared" / "data"
CACHE = Path(".cache") / "data"

OWN = {
    "folder": "name your images' folder with --data; it holds one folder per class",
    "table": "name your CSV file with --data; its columns are file and labels",
}
"""Sources that are the user's own, and how to give them."""

MADE_OF = {"garments": "fashion-mnist"}
"""Sources that are composed of another one's files."""


def find_data(
    source: str, given: Path | None, *, within: str | None = None, download: bool = False
) -> Path:
    """The folder to look for a source in: the given one as it is, or what CONVOY_DATA points to.

    A collection that comes packed, with an unpack.py, is laid out under .cache/data first. A source
    of the user's own is looked for `within` a folder of it, if the recipe names one.

    Raises: TrainingError naming what to set.
    """
    if given is not None:
        if source != "table" and not given.is_dir() and not download:
            raise TrainingError(f"{given}: no such folder; --data names the data set's folder")
        for name in (given.name, given.resolve().name):  # the bundle and its page will say it
            if not is_utf8(name):
                raise TrainingError(f"{given}: {name!r} is not named in UTF-8; rename it")
        return given
    if source in OWN and within is None:
        raise TrainingError(OWN[source])
    collection = Path(os.environ.get("CONVOY_DATA", DEFAULT))
    if (collection / "unpack.py").is_file():
        collection = _unpack(collection, within or MADE_OF.get(source, source))
    if within is not None and not (collection / within).is_dir():
        raise TrainingError(f"no {within} in {collection}: {OWN[source]}")
    if collection.is_dir():
        return collection / (within or "")
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
