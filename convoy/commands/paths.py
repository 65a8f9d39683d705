"""From what was typed to the files that are meant."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator

from convoy.client.errors import InvalidRequest
from convoy.files import IMAGE_SUFFIXES, files_below


def expand(arguments: Iterable[str]) -> list[str]:
    """List the files meant by files, folders and globs, in order.

    A file that does not exist is listed all the same: classifying it reports it in its row.

    Raises: InvalidRequest for a folder without images or that may not be read, or a glob that
    matches nothing.
    """
    return [path for argument in arguments for path in _expand(argument)]


def _expand(argument: str) -> list[str]:
    if os.path.isdir(argument):
        return _images_below(argument)
    if os.path.lexists(argument) or not glob.has_magic(argument):
        return [argument]
    matches = sorted(glob.glob(argument, recursive=True))
    files = [
        path
        for match in matches
        for path in (list(_walk(match)) if os.path.isdir(match) else [match])
    ]
    if not files:
        raise InvalidRequest(f"{argument}: matches no image")
    # With ** a folder and the files in it both match.
    return list(dict.fromkeys(files))


def _images_below(folder: str) -> list[str]:
    files = list(_walk(folder))
    if not files:
        raise InvalidRequest(f"{folder}: no images ({' '.join(IMAGE_SUFFIXES)}) in this folder")
    return files


def _walk(folder: str) -> Iterator[str]:
    """The images below a folder, in order. Raises: InvalidRequest."""
    try:
        for file in files_below(folder):
            if file.lower().endswith(IMAGE_SUFFIXES):
                yield file
    except OSError as error:
        raise InvalidRequest(f"{error.filename}: {error.strerror}") from None
