"""Files that are there whole or not at all, also after the machine has stopped; names of photos."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

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
