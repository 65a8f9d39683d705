"""Files made to hurt: headers that lie, little data that unpacks to much, tables without end.

Each is small enough to pass the limit on bytes; none may cost much, or fail in a strange way.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

from PIL import Image

HUGE = 60_000


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def small(mode: str = "RGB") -> Image.Image:
    return Image.linear_gradient("L").resize((40, 30)).convert(mode)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))


def png(
    width: int,
    height: int,
    *chunks: bytes,
    bits: int = 8,
    colour: int = 2,
    pixels: bytes | None = None,
) -> bytes:
    """A PNG of black pixels, with `chunks` before the pixels."""
    header = chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, bits, colour, 0, 0, 0))
    if pixels is None:
        samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
        pixels = bytes((1 + (width * bits * samples + 7) // 8) * height)
    data = chunk(b"IDAT", zlib.compress(pixels, 9))
    return b"".join((b"\x89PNG\r\n\x1a\n", header, *chunks, data, chunk(b"IEND", b"")))


def tiff(tags: dict[int, tuple[int, int, int]], tail: bytes = b"", *, order: str = "<") -> bytes:
    """A TIFF of one directory; `tags`: number -> (type, count, value or offset)."""
    mark = {"<": b"II", ">": b"MM"}[order]
    entries = b"".join(
        struct.pack(order + "HHLL", tag, *entry)
        if entry[0] != 3 or entry[1] != 1
        else struct.pack(order + "HHLHH", tag, *entry, 0)
        for tag, entry in sorted(tags.items())
    )
    count = struct.pack(order + "H", len(tags))
    header = mark + struct.pack(order + "HL", 42, 8)
    return header + count + entries + bytes(4) + tail


def grey_tiff(width: int, height: int, **changes: tuple[int, int, int]) -> dict[int, tuple]:
    """Tags of an 8-bit grey TIFF in one strip; `changes` by "t" and the tag's number."""
    tags = {
        256: (4, 1, width),
        257: (4, 1, height),
        258: (3, 1, 8),
        259: (3, 1, 1),
        262: (3, 1, 1),
        273: (4, 1, 8),
        277: (3, 1, 1),
        278: (4, 1, height),
        279: (4, 1, width * height),
    }
    return tags | {int(name[1:]): value for name, value in changes.items()}


def patched(data: bytes, at: int, replacement: bytes) -> bytes:
    return data[:at] + replacement + data[at + len(replacement) :]


def _jpeg_size() -> bytes:
    data = encode(small(), "JPEG")
    return patched(data, data.index(b"\xff\xc0") + 5, struct.pack(">HH", HUGE, HUGE))


def _jpeg_segments() -> bytes:
    data = encode(small(), "JPEG")
    body = b"Exif\0\0II*\0\x08\0\0\0" + b"\xff" * 60_000
    segment = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    return data[:2] + segment * 200 + data[2:]


def _jpeg_scans() -> bytes:
    """A progressive JPEG that repeats its last scan 20,000 times."""
    data = encode(small().resize((2000, 2000)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * (8_000_000 // (len(data) - last)) + b"\xff\xd9"


def _gif_screen() -> bytes:
    return patched(encode(small("P"), "GIF"), 6, struct.pack("<HH", 65_535, 65_535))


def _gif_frame() -> bytes:
    data = encode(small("P"), "GIF")
    at = data.index(b",", 13 + 3 * 2 ** ((data[10] & 7) + 1)) + 1
    return patched(data, at, struct.pack("<HHHH", 65_000, 65_000, 40, 30))


def _gif_frames() -> bytes:
    image = small("P")
    return encode(
        image, "GIF", save_all=True, append_images=[image.rotate(7 * i) for i in range(500)]
    )


def _bmp_size() -> bytes:
    return patched(encode(small(), "BMP"), 18, struct.pack("<ll", HUGE, HUGE))


def rle_bmp(width: int, height: int, codes: bytes, *, compression: int = 1) -> bytes:
    palette = bytes(4 * 256)
    header = struct.pack(
        "<LllHHLLllLL", 40, width, height, 1, 8, compression, len(codes), 0, 0, 256, 0
    )
    offset = 14 + len(header) + len(palette)
    start = b"BM" + struct.pack("<LHHL", offset + len(codes), 0, 0, offset)
    return start + header + palette + codes


def _webp_canvas() -> bytes:
    body = bytes((0x10, 0, 0, 0)) + 2 * (16_383).to_bytes(3, "little")
    inner = encode(small(), "WEBP")[12:]
    chunks = b"WEBPVP8X" + struct.pack("<L", len(body)) + body + inner
    return b"RIFF" + struct.pack("<L", len(chunks)) + chunks


def _webp_size() -> bytes:
    data = encode(small(), "WEBP")
    return patched(data, 26, struct.pack("<HH", 16_383, 16_383))


def _many_texts() -> bytes:
    texts = [chunk(b"zTXt", b"k%d\0\0" % i + zlib.compress(bytes(1_000_000))) for i in range(60)]
    return png(8, 8, *texts)


REFUSED: dict[str, Callable[[], bytes]] = {
    "png bomb": lambda: png(30_000, 30_000, bits=1, colour=0),
    "png header": lambda: png(HUGE, HUGE, pixels=b"\0"),
    "png header of 2**31": lambda: png(2**31 - 1, 2**31 - 1, pixels=b"\0"),
    "png text": lambda: png(8, 8, chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**26)))),
    "png international text": lambda: png(
        8, 8, chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(2**26)))
    ),
    "png profile": lambda: png(8, 8, chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(2**26)))),
    "png texts of 60 MB": _many_texts,
    "png without pixels": lambda: png(4000, 4000, pixels=b"\0"),
    "jpeg header": _jpeg_size,
    "jpeg scans": _jpeg_scans,
    "gif screen": _gif_screen,
    "gif frame": _gif_frame,
    "bmp header": _bmp_size,
    "bmp run length": lambda: rle_bmp(7000, 7000, b"\1\0\0\0" * 7000),
    "webp canvas": _webp_canvas,
    "webp header": _webp_size,
    "tiff header": lambda: tiff(grey_tiff(HUGE, HUGE)),
    "tiff tile": lambda: tiff(
        grey_tiff(64, 64, t322=(4, 1, HUGE), t323=(4, 1, HUGE), t324=(4, 1, 8)), bytes(4096)
    ),
    "tiff strips": lambda: tiff(
        grey_tiff(3000, 3000, t278=(4, 1, 2999), t273=(4, 4_000_000, 150)), bytes(16_000_200)
    ),
    "tiff directory": lambda: b"II*\0\x08\0\0\0\xff\xff" + bytes(12 * 65_535 + 4),
    "tiff directory outside": lambda: b"II*\0\xff\xff\xff\x7f" + bytes(100),
    "tiff samples": lambda: tiff(grey_tiff(40, 30, t277=(4, 1, 2**32 - 1)), bytes(1200)),
    "bigtiff count": lambda: b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0" + b"\xff" * 8 + bytes(400),
}

DECODED: dict[str, Callable[[], bytes]] = {
    "jpeg segments of 12 MB": _jpeg_segments,
    "gif frames": _gif_frames,
    "bmp run length": lambda: rle_bmp(40, 30, b"\x28\x07\0\0" * 30 + b"\0\1"),
    "webp frames": lambda: encode(
        small(), "WEBP", save_all=True, append_images=[small().rotate(i) for i in range(100)]
    ),
    "png frames": lambda: encode(
        small(), "PNG", save_all=True, append_images=[small().rotate(i) for i in range(100)]
    ),
    "tiff with a huge private tag": lambda: tiff(
        grey_tiff(40, 30, t50000=(5, 2_000_000, 0), t34665=(4, 1, 8)), bytes(16_000_000)
    ),
    "tiff whose next page is itself": lambda: patched(
        tiff(grey_tiff(40, 30), bytes(1200)), 8 + 2 + 9 * 12, struct.pack("<L", 8)
    ),
}
