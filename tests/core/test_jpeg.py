"""JPEGs decoded without Pillow: which files that is, and that nobody can see the difference."""

from __future__ import annotations

import io
import random
import subprocess
import sys
from pathlib import Path

import hostile
import numpy as np
import pytest
from PIL import Image

from convoy.errors import ImageError
from convoy.imaging import InputSpec, Limits, decode
from convoy.jpeg import Header, decode_plain, read_header

CORRUPTIONS_PER_FILE = 6

# Prints one line for each file of a folder and each kind of input: its pixels, or the refusal.
OUTCOMES = """
import hashlib, sys
from pathlib import Path
if sys.argv[2] == "pillow":
    sys.modules["simplejpeg"] = None
from convoy.errors import ImageError
from convoy.imaging import InputSpec, decode
SPECS = (
    InputSpec(height=32, width=32, channels=3),
    InputSpec(height=30, width=40, channels=3),
    InputSpec(height=64, width=24, channels=1, crop_fraction=0.875, interpolation="bicubic"),
    InputSpec(height=12, width=30, channels=3, resize="stretch"),
)
for file in sorted(Path(sys.argv[1]).iterdir()):
    for spec in SPECS:
        try:
            outcome = hashlib.sha256(decode(file.read_bytes(), spec)).hexdigest()
        except ImageError as error:
            outcome = str(error)
        print(file.name, outcome)
"""


def jpeg(mode: str = "RGB", **options: object) -> bytes:
    return hostile.encode(hostile.small(mode), "JPEG", **options)


def photo(width: int, height: int, orientation: int = 1, **options: object) -> bytes:
    noise = np.random.default_rng(width).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(noise).resize((width, height))
    return hostile.encode(image, "JPEG", exif=exif, **options)


FILES = {
    "plain": jpeg(),
    "grey": jpeg("L"),
    "cmyk": jpeg("CMYK"),
    "rgb": jpeg(keep_rgb=True),
    "progressive": photo(300, 200, progressive=True),
    "restarts": photo(300, 200, restart_marker_blocks=3),
    "comment": jpeg(comment=b"x" * 60_000),
    **{f"4:{kind}": photo(333, 257, subsampling=kind) for kind in range(3)},
    **{f"turned {turn}": photo(401, 299, turn) for turn in range(1, 9)},
    **{f"scale 1/{scale}": photo(80 * scale + 5, 64 * scale + 3) for scale in (1, 2, 4, 8)},
}


def corrupted(data: bytes, seed: int) -> bytes:
    """Cut, with bits flipped, or with bytes between the segments."""
    chance = random.Random(seed)
    at = chance.randrange(2, len(data))
    if seed % 3 == 0:
        return data[:at]
    if seed % 3 == 1:
        return hostile.patched(data, at, bytes([data[at] ^ 1 << chance.randrange(8)]))
    return data[:at] + b"\xff\xff"[: chance.randrange(3)] + data[at:]


def outcomes(folder: Path, how: str) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", OUTCOMES, str(folder), how],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return result.stdout.splitlines()


def test_pillow_alone_gives_the_same_pixels_and_refusals(tmp_path: Path, odd_images: Path) -> None:
    for name, data in FILES.items():
        (tmp_path / name.replace("/", "-")).write_bytes(data)
        for seed in range(CORRUPTIONS_PER_FILE):
            (tmp_path / f"{name.replace('/', '-')} {seed}").write_bytes(corrupted(data, seed))
    for file in odd_images.glob("*.jp*g"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with_both = outcomes(tmp_path, "both")
    assert len(with_both) > 4 * len(FILES) * CORRUPTIONS_PER_FILE
    assert with_both == outcomes(tmp_path, "pillow")


def test_the_header_of_a_plain_file_is_read() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = jpeg(exif=exif, xmp=b"<x/>", progressive=True)
    assert read_header(data) == Header(40, 30, 3, True, exif.tobytes()[6:], b"<x/>")
    assert read_header(jpeg("L")) == Header(40, 30, 1, False, b"", b"")


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_a_plain_file_is_decoded_at_every_scale(scale: int) -> None:
    data = photo(333, 257)
    header = read_header(data)
    assert header is not None
    pixels = decode_plain(data, header, scale, "RGB")
    assert pixels is not None
    with Image.open(io.BytesIO(data)) as image:
        image.draft(None, (333 // scale, 257 // scale))
        assert np.array_equal(pixels, np.asarray(image))


@pytest.mark.parametrize(
    "data",
    [
        jpeg("CMYK"),
        jpeg()[:100],
        jpeg().replace(b"\xff\xda", b"\xff\xff\xda"),
        jpeg().replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"),
        jpeg().replace(b"\xff\xc0", b"\xff\xc9"),
        jpeg().replace(b"\xff\xdb\x00", b"\xff\xdb\xff", 1),
        b"\xff\xd8\xff\xe0\x00\x02" + b"\xff\xe0\x00\x02" * 100_000 + jpeg()[2:],
    ],
    ids=["cmyk", "cut", "fill byte", "12 bits", "arithmetic", "long segment", "many segments"],
)
def test_an_unusual_file_is_left_to_pillow(data: bytes) -> None:
    assert read_header(data) is None


@pytest.mark.parametrize("cut", [1, 2, 100])
def test_a_truncated_file_is_doubted(cut: int) -> None:
    data = photo(64, 64)[:-cut]
    header = read_header(data)
    assert header is not None
    assert decode_plain(data, header, 1, "RGB") is None


def test_pixels_and_scans_are_limited_before_decoding() -> None:
    lying = jpeg().replace(
        b"\xff\xc0\x00\x11\x08\x00\x1e\x00\x28", b"\xff\xc0\x00\x11\x08\xff\xff\xff\xff"
    )
    with pytest.raises(ImageError, match="65535 x 65535 pixels, more than the limit"):
        decode(lying, InputSpec(height=8, width=8, channels=3))
    with pytest.raises(ImageError, match="40 x 30 pixels, more than the limit"):
        decode(jpeg(), InputSpec(height=8, width=8, channels=3), Limits(max_pixels=1199))


@pytest.mark.parametrize("side", [64, 32])
def test_pixels_are_written_where_the_caller_wants_them(side: int) -> None:
    rows = np.zeros((3, side, side, 3), np.uint8)
    spec = InputSpec(height=side, width=side, channels=3)
    data = photo(64, 64)
    decode(data, spec, out=rows[1])
    assert np.array_equal(rows[1], decode(data, spec))
    assert not rows[[0, 2]].any()
