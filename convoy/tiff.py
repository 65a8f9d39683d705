"""A TIFF file cut down to what its first picture needs, before Pillow and libtiff see it.

A TIFF is a web of offsets: pages, EXIF and GPS directories, strip tables of any length. Pillow
follows all of them and warns as it goes; a hostile table costs it gigabytes. So the directory of
the first page is read here, what does not matter to its pixels is left out, and what remains is
written behind the file as its only directory. The pixels stay where they are.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from convoy.errors import ImageError

_WIDTH, _HEIGHT, _SAMPLES, _PLANAR = 256, 257, 277, 284
_STRIP_OFFSETS, _ROWS_PER_STRIP, _STRIP_SIZES = 273, 278, 279
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_SIZES = 322, 323, 324, 325
_TABLES = (_STRIP_OFFSETS, _STRIP_SIZES, _TILE_OFFSETS, _TILE_SIZES)

# Besides these: bits per sample, compression, photometric, fill order, orientation, fax options,
# predictor, colour map, extra samples, sample format, JPEG (new and old), YCbCr, XMP (it may hold
# the orientation).
_KEPT = {_WIDTH, _HEIGHT, _SAMPLES, _PLANAR, _ROWS_PER_STRIP, _TILE_WIDTH, _TILE_HEIGHT, *_TABLES}
_KEPT |= {258, 259, 262, 266, 274, 292, 293, 317, 320, 338, 339, 347, *range(512, 522)}
_KEPT |= {529, 530, 531, 532, 700}

# Bytes of one value by type; Pillow and libtiff skip entries of other types.
_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_TYPE_SIZES |= {13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "B", 3: "H", 4: "L", 16: "Q"}

_MAX_ENTRIES = 4096
_MAX_SAMPLES = 6  # CMYK and two extra, as Pillow has it
_MAX_VALUES = 65_536  # Pillow makes a Python object of about 500 bytes for each strip


class _Entry(NamedTuple):
    tag: int
    kind: int
    length: int
    field: bytes  # the value itself, or where it is


@dataclass(frozen=True, slots=True)
class _Layout:
    """The four ways to write a directory: two byte orders, 32-bit or 64-bit offsets."""

    order: str
    big: bool

    @property
    def offset(self) -> struct.Struct:
        return struct.Struct(self.order + ("Q" if self.big else "L"))

    @property
    def tally(self) -> struct.Struct:
        return struct.Struct(self.order + ("Q" if self.big else "H"))

    @property
    def entry(self) -> struct.Struct:
        return struct.Struct(self.order + ("HHQ8s" if self.big else "HHL4s"))

    def header(self, directory: int) -> bytes:
        mark = b"II" if self.order == "<" else b"MM"
        version = (43, 8, 0) if self.big else (42,)
        return (
            mark
            + struct.pack(f"{self.order}{len(version)}H", *version)
            + self.offset.pack(directory)
        )


def first_page(data: bytes, max_pixels: int) -> bytes:
    """The same file with one page and one directory, which holds what the pixels need.

    Raises: ImageError where the directory asks for more than an image of its size can need,
    struct.error where it is cut off.
    """
    layout = _Layout("<" if data[:2] == b"II" else ">", big=43 in data[2:4])
    (start,) = layout.offset.unpack_from(data, 8 if layout.big else 4)
    entries = _read(data, layout, start)
    _check(layout, entries, max_pixels)
    pad = bytes(len(data) % 2)
    header = layout.header(len(data) + len(pad))
    directory = layout.tally.pack(len(entries)) + b"".join(
        layout.entry.pack(*entries[tag]) for tag in sorted(entries)
    )
    return b"".join(
        (header, memoryview(data)[len(header) :], pad, directory, layout.offset.pack(0))
    )


def _read(data: bytes, layout: _Layout, start: int) -> dict[int, _Entry]:
    """The entries that matter, by tag; the first of a tag counts, as Pillow has it."""
    (count,) = layout.tally.unpack_from(data, start)
    if count > _MAX_ENTRIES:
        raise ImageError(f"unreadable TIFF image: a directory of {count:,} entries")
    entries: dict[int, _Entry] = {}
    for index in range(count):
        at = start + layout.tally.size + index * layout.entry.size
        entry = _Entry(*layout.entry.unpack_from(data, at))
        if entry.tag in _KEPT and entry.tag not in entries and _is_inside(data, layout, entry):
            entries[entry.tag] = entry
    return entries


def _is_inside(data: bytes, layout: _Layout, entry: _Entry) -> bool:
    size = entry.length * _TYPE_SIZES.get(entry.kind, len(data) + 1)
    if size <= layout.offset.size:
        return True
    (offset,) = layout.offset.unpack(entry.field)
    return bool(offset + size <= len(data))


def _check(layout: _Layout, entries: dict[int, _Entry], max_pixels: int) -> None:
    width, height = (_integer(layout, entries.get(tag), 0) for tag in (_WIDTH, _HEIGHT))
    tile_width = _integer(layout, entries.get(_TILE_WIDTH), width)
    tile_height = _integer(layout, entries.get(_TILE_HEIGHT), height)
    if tile_width * tile_height > max_pixels:
        raise ImageError(
            f"{tile_width} x {tile_height} pixels, more than the limit of {max_pixels:,}"
        )
    rows = _integer(layout, entries.get(_ROWS_PER_STRIP), height)
    planes = _integer(layout, entries.get(_SAMPLES), 1)
    if planes > _MAX_SAMPLES:
        raise ImageError(f"unreadable TIFF image: {planes:,} samples a pixel")
    if _integer(layout, entries.get(_PLANAR), 1) != 2:
        planes = 1
    strips = -(-height // max(rows, 1))
    tiles = -(-width // max(tile_width, 1)) * -(-height // max(tile_height, 1))
    # Some writers list a few too many; a table without bound decodes the same pixels for minutes.
    most = min(4 * max(strips, tiles) * planes + 16, _MAX_VALUES)
    for tag, entry in entries.items():
        if entry.length > (most if tag in _TABLES else _MAX_VALUES) and _TYPE_SIZES[entry.kind] > 1:
            raise ImageError(
                f"unreadable TIFF image: {entry.length:,} values in tag {tag}, {most:,} at most"
            )


def _integer(layout: _Layout, entry: _Entry | None, default: int) -> int:
    if entry is None or entry.length != 1 or entry.kind not in _INTEGERS:
        return default
    if _TYPE_SIZES[entry.kind] > len(entry.field):
        return default
    return int(struct.unpack_from(layout.order + _INTEGERS[entry.kind], entry.field)[0])
