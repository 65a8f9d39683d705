"""Images that are odd, broken or hostile: pixels or an ImageError, never anything else."""

from __future__ import annotations

import csv
import random
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hostile
import numpy as np
import pytest
from PIL import Image, ImageFile

from convoy.errors import ImageError
from convoy.imaging import InputSpec, decode

SPEC = InputSpec(height=32, width=32, channels=3)
GREY = InputSpec(height=24, width=40, channels=1, resize="stretch", interpolation="bicubic")
CORRUPTIONS_PER_FILE = 8


def outcome(data: bytes, spec: InputSpec = SPEC) -> str:
    """ "" where the file decodes, else the text of the refusal."""
    try:
        pixels = decode(data, spec)
    except ImageError as error:
        assert_is_for_people(str(error))
        return str(error)
    assert (pixels.shape, pixels.dtype) == (spec.shape, np.uint8)
    return ""


def assert_is_for_people(text: str) -> None:
    assert 8 < len(text) <= 200
    assert text.isprintable()
    assert not any(inside in text for inside in ("0x", "<", "Error", "object", "b'", "PIL"))


def test_every_odd_image_does_what_its_row_says(odd_images: Path) -> None:
    with (odd_images / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    wrong = []
    for row in rows:
        refusal = outcome((odd_images / row["file"]).read_bytes())
        if row["expected"] not in ("either", "refused" if refusal else "decodes"):
            wrong.append(f"{row['file']}: {row['expected']}, but {refusal or 'decodes'}")
    assert rows
    assert not wrong, "\n".join(wrong)


def test_odd_images_have_the_upright_size_of_their_row(odd_images: Path) -> None:
    """An input of that very shape takes the whole picture: cropping and stretching agree."""
    with (odd_images / "manifest.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["expected"] == "decodes"]
    for row in rows:
        width, height = (int(side) for side in row["upright"].split("x"))
        if max(width, height) > 1000:
            continue
        data = (odd_images / row["file"]).read_bytes()
        crop = decode(data, InputSpec(height=height, width=width, channels=3))
        stretch = decode(data, InputSpec(height=height, width=width, channels=3, resize="stretch"))
        assert np.array_equal(crop, stretch), row["file"]


@pytest.mark.parametrize("suffix", ["Landscape", "Portrait"])
def test_photos_turned_by_a_camera_look_like_the_upright_one(odd_images: Path, suffix: str) -> None:
    files = sorted(odd_images.glob(f"exif_{suffix}_*.jpg"))
    upright, *turned = [decode(file.read_bytes(), SPEC).astype(int) for file in files]
    assert turned
    assert all(np.abs(pixels - upright).mean() < 6 for pixels in turned)


@pytest.mark.parametrize("name", hostile.REFUSED)
def test_a_hostile_file_is_refused(name: str) -> None:
    assert outcome(hostile.REFUSED[name]())


@pytest.mark.parametrize("name", hostile.DECODED)
def test_a_strange_but_honest_file_is_decoded(name: str) -> None:
    assert outcome(hostile.DECODED[name]()) == ""


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "not an image in a supported format"),
        (b"\x89PNG\r\n", "not an image in a supported format"),
        (b"\n <!DOCTYPE html><html></html>", "HTML is not supported"),
        (b'\xef\xbb\xbf<?xml version="1.0"?><svg/>', "SVG or XML is not supported"),
        (b"%PDF-1.7\n", "PDF is not supported"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript is not supported"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC is not supported"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF is not supported"),
        (b"\0\0\x01\0\x01\0", "ICO is not supported"),
        (b"8BPS\0\1", "Photoshop is not supported"),
        (b"PK\x03\x04", "ZIP is not supported"),
    ],
)
def test_what_is_no_image_is_named(data: bytes, text: str) -> None:
    refusal = outcome(data + bytes(200))
    assert refusal.startswith(text)
    assert refusal.endswith("send JPEG, PNG, WebP, GIF, BMP or TIFF")


def test_a_12_bit_jpeg_is_refused_by_name() -> None:
    data = hostile.encode(hostile.small(), "JPEG")
    refusal = outcome(hostile.patched(data, data.index(b"\xff\xc0") + 4, b"\x0c"))
    assert refusal == "unreadable JPEG image: cannot handle 12-bit layers"


@pytest.mark.parametrize("options", [{"restart_marker_blocks": 1}, {"progressive": True}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_unusual_jpegs_look_like_the_plain_one(mode: str, options: dict[str, object]) -> None:
    image = hostile.small(mode)
    plain = decode(hostile.encode(image, "JPEG"), SPEC)
    assert np.array_equal(decode(hostile.encode(image, "JPEG", **options), SPEC), plain)


def test_a_jpeg_that_stores_rgb_keeps_its_colours() -> None:
    image = Image.new("RGB", (32, 32), (200, 30, 60))
    pixels = decode(hostile.encode(image, "JPEG", keep_rgb=True, quality=95), SPEC)
    assert np.abs(pixels.astype(int) - (200, 30, 60)).max() <= 3


@pytest.mark.parametrize("transform", [0, 1, 2, 255])
def test_every_adobe_marker_of_a_cmyk_jpeg_decodes(transform: int) -> None:
    data = hostile.encode(hostile.small("CMYK"), "JPEG")
    assert outcome(hostile.patched(data, data.index(b"Adobe") + 11, bytes([transform]))) == ""


@pytest.mark.parametrize("bits", [1, 2, 4, 16])
def test_the_transparent_grey_of_a_png_counts_in_its_own_bits(bits: int) -> None:
    brightest = 2**bits - 1
    row = b"\xff\xff" if bits == 16 else b"\xff"
    transparent = hostile.chunk(b"tRNS", brightest.to_bytes(2, "big"))
    seen = hostile.chunk(b"tRNS", bytes(2))
    black = InputSpec(height=1, width=1, channels=1)
    for colour, chunks, expected in ((bytes(2), (transparent,), 0), (bytes(2), (seen,), 255)):
        data = hostile.png(1, 1, *chunks, bits=bits, colour=0, pixels=b"\0" + colour[: len(row)])
        assert decode(data, black).item() == expected


def test_the_transparent_colour_of_a_16_bit_png_is_white() -> None:
    red = bytes.fromhex("ff00 0000 0000")
    data = hostile.png(1, 1, hostile.chunk(b"tRNS", red), bits=16, pixels=b"\0" + red)
    assert decode(data, InputSpec(height=1, width=1, channels=3)).tolist() == [[[255] * 3]]


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_of_either_byte_order_decodes(order: str) -> None:
    tail = bytes(range(200)) * 6
    start = 8 + 2 + 9 * 12 + 4
    data = hostile.tiff(hostile.grey_tiff(40, 30, t273=(4, 1, start)), tail, order=order)
    pixels = decode(data, InputSpec(height=30, width=40, channels=1))
    assert pixels.tobytes() == tail


def samples() -> dict[str, bytes]:
    """One small file of every kind; all of them decode."""
    image, frames = hostile.small(), [hostile.small().rotate(angle) for angle in (30, 60)]
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        "jpeg": hostile.encode(image, "JPEG", exif=exif),
        "jpeg progressive": hostile.encode(image, "JPEG", progressive=True),
        "jpeg cmyk": hostile.encode(image.convert("CMYK"), "JPEG"),
        "webp lossless": hostile.encode(image.convert("RGBA"), "WEBP", lossless=True),
        "mpo": hostile.encode(image, "MPO", save_all=True, append_images=frames),
        "bmp palette": hostile.encode(image.convert("P"), "BMP"),
        "bmp run length": hostile.rle_bmp(40, 30, b"\x28\x07\0\0" * 30 + b"\0\1"),
        "tiff fax": hostile.encode(image.convert("1"), "TIFF", compression="group4"),
    }
    for kind in ("PNG", "GIF", "WEBP"):
        files[f"{kind} animated"] = hostile.encode(image, kind, save_all=True, append_images=frames)
    for mode in ("1", "L", "LA", "P", "RGBA", "I;16"):
        grey = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40))
        files[f"png {mode}"] = hostile.encode(
            grey if mode == "I;16" else image.convert(mode), "PNG", exif=exif
        )
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        files[f"tiff {compression}"] = hostile.encode(image, "TIFF", compression=compression)
    return files


SAMPLES = samples()


def corrupted(data: bytes, chance: random.Random) -> bytes:
    """Cut, or with bits flipped, bytes set or a stretch copied over another."""
    broken = bytearray(data)
    way = chance.randrange(4)
    if way == 0:
        return data[: chance.randrange(len(data))]
    if way == 1:
        for _ in range(chance.randrange(1, 5)):
            broken[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif way == 2:
        for _ in range(chance.randrange(1, 8)):
            broken[chance.randrange(min(len(data), 300))] = chance.choice((0, 1, 127, 128, 255))
    else:
        start, end, length = (chance.randrange(len(data)) for _ in range(3))
        broken[start : start + length] = data[end : end + length]
    return bytes(broken)


@pytest.mark.parametrize("name", SAMPLES)
def test_corrupted_files_give_pixels_or_a_refusal(name: str) -> None:
    assert outcome(SAMPLES[name]) == ""
    for seed in range(CORRUPTIONS_PER_FILE):
        outcome(corrupted(SAMPLES[name], random.Random(f"{name} {seed}")), (SPEC, GREY)[seed % 2])


WARNING_FILES: dict[str, Callable[[], bytes]] = {
    "exif": lambda: hostile.encode(
        hostile.small(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x09\0" + b"\x1a\1\5\0\xff" * 20
    ),
    "frames": lambda: hostile.png(40, 30, hostile.chunk(b"acTL", bytes(8))),
    "tags": lambda: hostile.tiff(
        hostile.grey_tiff(40, 30, t282=(5, 9999, 9999), t305=(2, 9**9, 9**9)), bytes(1200)
    ),
}


@pytest.mark.parametrize("action", ["error", "always"])
@pytest.mark.parametrize("name", WARNING_FILES)
def test_no_warning_of_pillow_gets_out(name: str, action: str) -> None:
    data = WARNING_FILES[name]()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(action)  # type: ignore[arg-type]
        assert outcome(data) == ""
        with ThreadPoolExecutor(4) as pool:
            assert not any(pool.map(outcome, [data] * 8))
    assert caught == []


def test_warnings_of_others_are_still_heard() -> None:
    outcome(SAMPLES["jpeg"])
    with pytest.warns(UserWarning, match="of others"):
        warnings.warn("of others", stacklevel=1)


def test_the_globals_of_pillow_are_left_alone() -> None:
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, ImageFile.MAXBLOCK
    for data in (*SAMPLES.values(), *(make() for make in WARNING_FILES.values())):
        outcome(data)
    after = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, ImageFile.MAXBLOCK
    assert before == after


def test_threads_get_the_pixels_that_one_alone_gets() -> None:
    files = list(SAMPLES.values()) * 8
    alone = [decode(data, SPEC) for data in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: decode(data, SPEC), files))
    assert all(np.array_equal(*pair) for pair in zip(alone, together, strict=True))


def test_a_refusal_does_not_hold_the_picture() -> None:
    data = hostile.encode(Image.effect_noise((500, 500), 50), "PNG")
    with pytest.raises(ImageError) as caught:
        decode(data[:-2000], SPEC)
    errors = [caught.value, caught.value.__context__]
    frames = [frame for error in errors for frame, _ in traceback.walk_tb(error.__traceback__)]
    held = [value for frame in frames for value in frame.f_locals.values()]
    assert held
    assert not any(isinstance(value, Image.Image) for value in held)


MEASURE = """
import resource, sys
from pathlib import Path
from convoy.errors import ImageError
from convoy.imaging import InputSpec, decode
spec = InputSpec(height=32, width=32, channels=3)
for file in sorted(Path(sys.argv[1]).iterdir()):
    data = file.read_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        decode(data, spec)
    except ImageError:
        pass
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(grown, file.name)
"""


def test_hostile_files_cost_little_memory(tmp_path: Path) -> None:
    """Peak memory of one process that meets them all, one after the other, in KiB."""
    for index, make in enumerate((*hostile.REFUSED.values(), *hostile.DECODED.values())):
        (tmp_path / f"{index:02}").write_bytes(make())
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", MEASURE, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.stderr == ""
    assert sum(int(line.split()[0]) for line in result.stdout.splitlines()) < 50 * 1024
