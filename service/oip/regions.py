"""Shared memory of this machine that callers have registered, to read from and to write to.

Regions are read and written as files, never mapped: who shares a mapping that somebody else may
cut short is ended by a signal. What is read is a copy, which nobody else can change afterwards.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service.errors import InvalidRequest, OutOfMemory, RegionExists, RegionNotFound, Unsupported
from service.oip.parameters import Parameters, number, text
from service.oip.shown import quoted

# Where Linux keeps POSIX shared memory objects.
FOLDER = Path("/dev/shm")
# Each holds a file open, of which a process may have 1,024 on many machines.
MOST_REGIONS = 256
MAX_NAME = 256
RETRY_SECONDS = 1.0
# The parameter of a tensor that says how much of a region it takes.
BYTE_SIZE = "shared_memory_byte_size"
MAX_FILE_NAME = 255


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a shared memory object, in bytes, whose file is open."""

    name: str
    key: str
    offset: int
    byte_size: int
    file: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies in a region."""

    region: str
    offset: int
    byte_size: int


class Regions:
    """The regions by name; where they are not enabled there are none."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self._regions: dict[str, Region] = {}

    def __iter__(self) -> Iterator[Region]:
        return iter(self._regions.values())

    def __getitem__(self, name: str) -> Region:
        if name not in self._regions:
            raise RegionNotFound(f"no shared memory region {quoted(name)} is registered")
        return self._regions[name]

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Open a part of the object `key`.

        Raises: Unsupported, RegionExists, InvalidRequest.
        """
        if not self.enabled:
            raise Unsupported("shared memory is off; start the server with --shared-memory")
        if not FOLDER.is_dir():
            raise Unsupported(f"shared memory: the server's machine has no {FOLDER}")
        if not 1 <= len(name) <= MAX_NAME:
            raise InvalidRequest(f"name: {len(name)} characters, must be 1 to {MAX_NAME}")
        if name in self._regions:
            raise RegionExists(f"the shared memory region {quoted(name)} is registered already")
        if len(self._regions) == MOST_REGIONS:
            raise InvalidRequest(f"there are {MOST_REGIONS} regions; unregister one first")
        file = _open(key)
        try:
            _check_extent(file, offset, byte_size)
        except InvalidRequest:
            os.close(file)
            raise
        self._regions[name] = Region(name, key, offset, byte_size, file)

    def unregister(self, name: str) -> None:
        """Let go of one region, where there is one."""
        if region := self._regions.pop(name, None):
            os.close(region.file)

    def clear(self) -> None:
        """Let go of all."""
        for name in list(self._regions):
            self.unregister(name)

    def find(self, parameters: Parameters, where: str) -> Place | None:
        """The place that a tensor names, if it does. Raises: InvalidRequest, RegionNotFound."""
        name = text(parameters, "shared_memory_region", where)
        if not name:
            return None
        offset = number(parameters, "shared_memory_offset", where)
        size = number(parameters, BYTE_SIZE, where)
        region = self[name]
        if offset + size > region.byte_size:
            raise InvalidRequest(
                f"{where}: {size:,} bytes from {offset:,} on leave the shared memory region "
                f"{quoted(name)} of {region.byte_size:,} bytes"
            )
        return Place(name, offset, size)

    def read(self, place: Place) -> bytes:
        """A copy of what lies there. Raises: InvalidRequest, RegionNotFound."""
        region = self._holding(place, place.byte_size)
        data = os.pread(region.file, place.byte_size, region.offset + place.offset)
        if len(data) != place.byte_size:
            raise _shrunk(region)
        return data

    def write(self, place: Place, data: bytes) -> None:
        """Write from the beginning of a place that is large enough.

        Raises: InvalidRequest, RegionNotFound; OutOfMemory where the machine has no room for it.
        """
        region = self._holding(place, len(data))
        begin = region.offset + place.offset
        if os.fstat(region.file).st_size < begin + len(data):
            raise _shrunk(region)
        try:
            written = os.pwrite(region.file, data, begin)
        except OSError:
            written = 0
        if written != len(data):
            raise OutOfMemory("shared memory is full", retry_after=RETRY_SECONDS)

    def _holding(self, place: Place, size: int) -> Region:
        """The region, which may be another one by now than when the place was found in it."""
        region = self[place.region]
        if place.offset + size > region.byte_size:
            raise _shrunk(region)
        return region


def _open(key: str) -> int:
    name = key.removeprefix("/")
    named = name not in ("", ".", "..") and not {"/", "\0"} & set(name)
    if not named or len(name.encode()) > MAX_FILE_NAME:
        raise InvalidRequest(
            f"key: {quoted(key)} is no name of a shared memory object: one name, without a folder"
        )
    try:
        # O_NONBLOCK: what is no regular file must not hold the server up.
        file = os.open(FOLDER / name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise InvalidRequest(f"key: {quoted(key)} cannot be opened: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise InvalidRequest(f"key: {quoted(key)} is no shared memory object")
    return file


def _check_extent(file: int, offset: int, byte_size: int) -> None:
    size = os.fstat(file).st_size
    if byte_size == 0 or offset + byte_size > size:
        raise InvalidRequest(
            f"byte_size: {byte_size:,} from offset {offset:,} on, must be at least 1 and within "
            f"the {size:,} bytes of the object"
        )


def _shrunk(region: Region) -> InvalidRequest:
    return InvalidRequest(
        f"shared memory region {quoted(region.name)}: it, or its object {quoted(region.key)}, has "
        "become smaller since it was registered"
    )
