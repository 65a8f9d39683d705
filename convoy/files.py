"""Files that are there whole or not at all, also after the machine has stopped; names of photos."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    *(".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
)
"""Of the kinds of files that `convoy.imaging` decodes, in small letters."""


def write_synced(file: Path, data: bytes) -> None:
    """Write a file, and see it on the disk. Raises: OSError."""
    with file.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def replace_file(file: Path, data: bytes) -> None:
    """Write a file, or leave the one that was there; its mode stays what it was.

    Raises: OSError.
    """
    handle, name = tempfile.mkstemp(prefix=".writing-", dir=file.parent)
    os.close(handle)
    work = Path(name)
    try:
        write_synced(work, data)
        work.chmod(file.stat().st_mode & 0o777 if file.exists() else 0o644)
        os.replace(work, file)
    finally:
        work.unlink(missing_ok=True)


def files_below(folder: str | os.PathLike[str]) -> Iterator[str]:
    """The files below a folder, in order; links to folders are not followed.

    What begins with a dot is left out: other programs' notes, often smaller copies of the photos.

    Raises: OSError where one of the folders cannot be read.
    """
    for parent, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(parent, one) for one in sorted(files) if not one.startswith("."))


def _raise(error: OSError) -> NoReturn:
    raise error
