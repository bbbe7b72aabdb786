"""Generated picture files: ordinary, odd and damaged ones."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 60, 40
ORIENTATION = 0x0112


def scene(seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Return a smooth random picture whose top left corner is red."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    image.paste((255, 0, 0), (0, 0, width // 4, height // 4))
    return image


def encode(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rotated(orientation: int, kind: str = "JPEG") -> bytes:
    """Return `scene()` stored turned or mirrored, with the EXIF orientation that undoes it."""
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = scene() if undo is None else scene().transpose(undo)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encode(stored, kind, exif=exif)


def png_claiming(width: int, height: int) -> bytes:
    """Return a PNG whose header claims a size, with almost no pixels behind it: a decompression bomb."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def jpeg_with_many_scans() -> bytes:
    """Return a progressive JPEG whose last scan is repeated 500 times: small, but slow to decode."""
    data = encode(scene(), progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + 500 * last + data[-2:]


def animation(kind: str) -> bytes:
    """Return an animation whose first frame is `scene()` and whose others are blue."""
    blue = Image.new("RGB", (WIDTH, HEIGHT), "blue")
    return encode(scene(), kind, save_all=True, append_images=[blue, blue], duration=50, loop=0)


def sixteen_bit_grey() -> bytes:
    """Return a 16-bit PNG with a ramp from black to white."""
    ramp = np.linspace(0, 65535, WIDTH).astype(np.uint16)
    return encode(Image.fromarray(np.tile(ramp, (HEIGHT, 1))), "PNG")


def half_transparent() -> bytes:
    image = scene().convert("RGBA")
    image.paste((0, 0, 0, 0), (WIDTH // 2, 0, WIDTH, HEIGHT))
    return encode(image, "PNG")


READABLE = {
    "jpeg": lambda: encode(scene(), quality=95),
    "progressive": lambda: encode(scene(), quality=95, progressive=True),
    "grey": lambda: encode(scene().convert("L")),
    "cmyk": lambda: encode(scene().convert("CMYK"), quality=95),
    "png": lambda: encode(scene(), "PNG"),
    "palette": lambda: encode(scene().convert("P"), "PNG"),
    "bilevel": lambda: encode(scene().convert("1"), "PNG"),
    "transparent": half_transparent,
    "sixteen bit": sixteen_bit_grey,
    "webp": lambda: encode(scene(), "WEBP"),
    "bmp": lambda: encode(scene(), "BMP"),
    "tiff": lambda: encode(scene(), "TIFF"),
    "animated gif": lambda: animation("GIF"),
    "animated png": lambda: animation("PNG"),
    "animated webp": lambda: animation("WEBP"),
}
DAMAGED = {
    "empty": (lambda: b"", "the file is empty"),
    "text": (lambda: b"this is not a picture", "not a picture in a known format"),
    "truncated jpeg": (lambda: encode(scene(width=400, height=300))[:-3000], "truncated"),
    "truncated png": (lambda: encode(scene(), "PNG")[:-200], "damaged"),
    "header only": (lambda: encode(scene())[:20], "not a picture|damaged"),
    "bomb": (lambda: png_claiming(60_000, 60_000), "more than 89,478,485"),
    "smaller bomb": (lambda: png_claiming(10_000, 10_000), "more than 89,478,485"),
    "many scans": (jpeg_with_many_scans, "scans, more than 100"),
    "missing pixels": (lambda: png_claiming(100, 100), "damaged"),
    "narrow": (lambda: encode(scene(width=30_000, height=10), "PNG"), "one side is more than 20 times"),
    "tiny": (lambda: encode(scene(width=5, height=5), "PNG"), "a side is shorter than 8"),
    "heic": (lambda: b"\0\0\0\x18ftypheic" + bytes(200), "HEIC"),
    "32 bit": (lambda: encode(Image.fromarray(np.ones((20, 20), np.int32)), "TIFF"), "32 bits"),
    "float": (lambda: encode(Image.fromarray(np.ones((20, 20), np.float32)), "TIFF"), "32 bits"),
    "postscript": (lambda: encode(scene(), "EPS"), "not a picture in a known format"),
    "zeros": (lambda: bytes(5000), "not a picture in a known format"),
}


def damage_pictures(count: int, originals: Sequence[bytes] = (), seed: int = 0) -> Iterator[bytes]:
    """Yield `count` pictures of all readable kinds, or of `originals`, with random bytes, every third one cut off."""
    rng = np.random.default_rng(seed)
    sources = originals or [make() for make in READABLE.values()]
    for number in range(count):
        data = bytearray(sources[number % len(sources)])
        for place in rng.integers(len(data), size=1 + number % 7).tolist():
            data[place] = int(rng.integers(256))
        yield bytes(data[: rng.integers(1, len(data)) if number % 3 == 0 else None])
