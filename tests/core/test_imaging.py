"""From image files to pixels: geometry, colour and orientation, against pictures drawn here."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from convoy.errors import ImageError
from convoy.imaging import InputSpec, Limits, decode, fit

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
ORIENTATIONS = range(1, 9)
FORMATS = {
    "PNG": {},
    "BMP": {},
    "GIF": {},
    "WEBP": {"lossless": True},
    "TIFF": {"compression": "tiff_lzw"},
    "JPEG": {"quality": 100, "subsampling": 0},
}


def spec(width: int, height: int, channels: int = 3, **options: object) -> InputSpec:
    return InputSpec.model_validate(
        {"width": width, "height": height, "channels": channels, **options}
    )


def quarters(width: int, height: int) -> Image.Image:
    """Red, green over blue, white: no two of the eight orientations look the same."""
    image = Image.new("RGB", (width, height), WHITE)
    image.paste(RED, (0, 0, width // 2, height // 2))
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    return image


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def oriented(image: Image.Image, orientation: int, kind: str) -> bytes:
    """A file whose pixels lie as a camera held that way writes them, so it shows `image`."""
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = image.transpose(turn[orientation]) if orientation in turn else image
    return encode(stored, kind, exif=exif, **FORMATS[kind])


def assert_close(pixels: NDArray[np.uint8], expected: object, tolerance: int = 0) -> None:
    difference = np.abs(pixels.astype(int) - np.asarray(expected, dtype=int))
    assert difference.max() <= tolerance


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", FORMATS)
def test_pixels_are_uint8_contiguous_and_of_the_shape_asked_for(kind: str, channels: int) -> None:
    wanted = spec(24, 16, channels)
    pixels = decode(encode(quarters(96, 80), kind), wanted)
    assert pixels.shape == wanted.shape == (16, 24, channels)
    assert pixels.nbytes == wanted.nbytes
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_any_buffer_of_bytes_is_taken(wrap: type) -> None:
    image = quarters(8, 8)
    assert_close(decode(wrap(encode(image)), spec(8, 8)), image)


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_an_image_of_the_right_size_is_not_resampled(fraction: float) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
    data = encode(Image.fromarray(noise))
    assert_close(decode(data, spec(30, 20, crop_fraction=fraction, interpolation="bicubic")), noise)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_orientation_shows_the_same_picture(kind: str, orientation: int) -> None:
    image = quarters(48, 32)
    pixels = decode(oriented(image, orientation, kind), spec(48, 32))
    assert_close(pixels, image, tolerance=3 if kind == "JPEG" else 0)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_turned_photo_is_drafted_for_its_upright_shape(orientation: int) -> None:
    wide = spec(60, 20, resize="center-crop")
    image = Image.linear_gradient("L").resize((960, 480)).convert("RGB")
    image.paste(RED, (0, 0, 480, 480))
    expected = decode(encode(image), wide)
    pixels = decode(oriented(image, orientation, "JPEG"), wide)
    away = [*range(27), *range(33, 60)]  # the edge between the halves may blur
    assert_close(pixels[:, away], expected[:, away], tolerance=6)


def test_orientation_is_found_in_xmp_where_exif_has_none() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:D tiff:Orientation="3"/></x:xmpmeta>'
    image = quarters(16, 16)
    data = encode(image, "WEBP", lossless=True, xmp=xmp)
    assert_close(decode(data, spec(16, 16)), image.rotate(180))


XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:D xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
    'tiff:Orientation="{}"/></x:xmpmeta>'
)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_tiff_is_turned_once_by_its_xmp(orientation: int) -> None:
    xmp = XMP.format(orientation).encode()
    data = encode(quarters(48, 32), "TIFF", tiffinfo={700: xmp})
    assert_close(*as_pillow_turns_it(data))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["exif", "xmp"])
def test_a_png_is_turned_by_what_follows_its_pixels(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    name, content = {
        "exif": (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")),
        "xmp": (b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + XMP.format(orientation).encode()),
    }[kind]
    chunk = struct.pack(">L4s", len(content), name) + content
    chunk += struct.pack(">L", zlib.crc32(chunk[4:]))
    data = encode(quarters(48, 32))
    end = data.rindex(b"IEND") - 4
    assert_close(*as_pillow_turns_it(data[:end] + chunk + data[end:]))


def as_pillow_turns_it(data: bytes) -> tuple[NDArray[np.uint8], Image.Image]:
    """Our pixels of a file, of its own size once upright, and Pillow's."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
    return decode(data, spec(*upright.size)), upright


@pytest.mark.parametrize(
    "block",
    [b"", b"II", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff" + b"\1\x12\0\3" * 40],
    ids=["empty", "short", "far offset", "endless"],
)
def test_a_broken_exif_block_does_not_matter(block: bytes) -> None:
    image = quarters(16, 16)
    data = encode(image, "PNG", exif=b"Exif\0\0" + block)
    assert_close(decode(data, spec(16, 16)), image)


def test_center_crop_keeps_the_exact_middle() -> None:
    image = Image.new("RGB", (300, 100), RED)
    image.paste(BLUE, (100, 0, 200, 100))
    assert_close(decode(encode(image), spec(100, 100)), np.full((100, 100, 3), BLUE))


@pytest.mark.parametrize("size", [(301, 100), (100, 333), (97, 31), (180, 121)])
@pytest.mark.parametrize("fraction", [1.0, 0.875])
def test_center_crop_of_a_mirror_image_is_the_mirrored_crop(
    size: tuple[int, int], fraction: float
) -> None:
    image = Image.effect_noise(size, 60).convert("RGB")
    wanted = spec(32, 48, crop_fraction=fraction)
    pixels = fit(image, wanted)
    mirrored = fit(image.transpose(Image.Transpose.ROTATE_180), wanted)
    assert_close(mirrored[::-1, ::-1], pixels, tolerance=1)


def test_crop_fraction_keeps_that_share_of_the_sides() -> None:
    image = Image.new("RGB", (200, 200), RED)
    image.paste(BLUE, (50, 50, 150, 150))
    # The outermost pixels blend with what lies beyond the crop, as in resizing before cropping.
    half = fit(image, spec(10, 10, crop_fraction=0.5))
    assert_close(half[1:-1, 1:-1], np.full((8, 8, 3), BLUE))
    assert fit(image, spec(10, 10, crop_fraction=0.8))[0, 0].tolist() == list(RED)


def test_stretch_keeps_every_corner() -> None:
    pixels = fit(quarters(400, 100), spec(40, 40, resize="stretch"))
    corners = [tuple(pixels[y, x]) for y, x in ((0, 0), (0, -1), (-1, 0), (-1, -1))]
    assert corners == [RED, GREEN, BLUE, WHITE]
    assert_close(pixels[:18, :18], np.full((18, 18, 3), RED))


def test_every_size_up_to_700_can_be_cropped() -> None:
    wanted = spec(7, 5)
    image = Image.new("RGB", (700, 700), GREEN)
    for side in range(1, 700):
        assert fit(image.crop((0, 0, side, 701 - side)), wanted).shape == (5, 7, 3)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_reduced_decoding_stays_close_to_full_decoding(interpolation: str) -> None:
    image = Image.radial_gradient("L").resize((1000, 750)).convert("RGB")
    data = encode(image, "JPEG", quality=95)
    wanted = spec(32, 32, interpolation=interpolation)
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        assert_close(decode(data, wanted), fit(opened, wanted), tolerance=3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr", "HSV"])
def test_every_mode_of_pillow_becomes_the_same_picture(mode: str) -> None:
    image = quarters(8, 8) if mode not in ("1", "L", "LA") else quarters(8, 8).convert("1")
    pixels = fit(image.convert("RGB").convert(mode), spec(8, 8))
    assert_close(pixels, image.convert("RGB"), tolerance=3)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_laid_over_white(kind: str) -> None:
    image = Image.new("RGBA", (4, 1))
    image.putdata([(255, 0, 0, 255), (255, 0, 0, 128), (255, 0, 0, 0), (0, 0, 0, 51)])
    pixels = decode(encode(image, kind, **FORMATS[kind]), spec(4, 1))
    expected = [[[255, 0, 0], [255, 127, 127], [255, 255, 255], [204, 204, 204]]]
    assert_close(pixels, expected, tolerance=1)
    grey = decode(encode(image, kind, **FORMATS[kind]), spec(4, 1, channels=1))
    assert_close(grey[..., 0], [[76, 165, 255, 204]], tolerance=1)


def test_a_transparent_palette_colour_is_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putdata([0, 1])
    for kind in ("PNG", "GIF"):
        pixels = decode(encode(image, kind, transparency=0), spec(2, 1))
        assert_close(pixels, [[WHITE, RED]])


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    levels = np.array([[0, 255, 256, 32_768, 65_535]], np.uint16)
    for kind in ("PNG", "TIFF"):
        pixels = decode(encode(Image.fromarray(levels), kind), spec(5, 1, channels=1))
        assert pixels[..., 0].tolist() == [[0, 0, 1, 128, 255]]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bit_grey_is_stretched_between_its_extremes(dtype: type) -> None:
    levels = np.array([[-1000, 0, 1000]], dtype)
    pixels = decode(encode(Image.fromarray(levels), "TIFF"), spec(3, 1))
    assert_close(pixels[0, :, 0], [0, 127, 255], tolerance=1)
    flat = decode(encode(Image.fromarray(levels[:, :1]), "TIFF"), spec(1, 1))
    assert flat.max() == 0


def test_lab_becomes_rgb() -> None:
    image = quarters(8, 8).convert("LAB")
    assert_close(decode(encode(image, "TIFF"), spec(8, 8)), quarters(8, 8), tolerance=24)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_only_the_first_frame_counts(kind: str) -> None:
    first, second = Image.new("RGB", (16, 16), RED), Image.new("RGB", (16, 16), BLUE)
    data = encode(first, kind, save_all=True, append_images=[second])
    assert_close(decode(data, spec(16, 16)), first, tolerance=3)


def test_what_the_first_frame_of_a_gif_leaves_open_is_white() -> None:
    data = bytearray(encode(Image.new("RGB", (2, 2), RED), "GIF"))
    data[6:10] = b"\x04\0\x02\0"  # a screen of 4 x 2
    pixels = decode(data, spec(4, 2))
    assert_close(pixels, [[RED, RED, WHITE, WHITE]] * 2)


@pytest.mark.parametrize(
    ("data", "limits", "text"),
    [
        (b"", Limits(), "empty: 0 bytes"),
        (bytes(101), Limits(max_bytes=100), "101 bytes, more than the limit of 100"),
        (encode(quarters(11, 10)), Limits(max_pixels=109), "11 x 10 pixels, more than the limit"),
    ],
)
def test_limits_are_named_in_the_refusal(data: bytes, limits: Limits, text: str) -> None:
    with pytest.raises(ImageError, match=text):
        decode(data, spec(8, 8), limits)


def test_what_is_exactly_at_the_limits_is_taken() -> None:
    data = encode(quarters(11, 10))
    pixels = decode(data, spec(4, 4), Limits(max_bytes=len(data), max_pixels=110))
    assert pixels.shape == (4, 4, 3)
