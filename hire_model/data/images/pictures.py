"""Decode picture files from any source: upright and RGB, or a `PictureError` with the reason why not."""

from __future__ import annotations

import io
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")  # no format that starts another program
MAX_PIXELS = 89_478_485  # Pillow's limit against decompression bombs: 256 MiB of RGB pixels
MIN_SIDE = 8
MAX_RATIO = 20  # of the longer side to the shorter: beyond it, nothing can be recognised in the resized picture
MAX_SCANS = 100  # of a JPEG; progressive ones have about 10. Decoding each takes time for all pixels
DECODE_S = 20.0  # seconds of CPU time; the largest picture allowed takes about 3
_SCAN = b"\xff\xda"
_DECODED_SIDE = 1024  # large JPEGs are decoded at 1/2, 1/4 or 1/8 of their size, but not below this
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


@dataclass(frozen=True)
class DecodeLimits:
    """What is decoded at most.

    formats  names of Pillow's decoders
    pixels   width times height, as the file's header states them
    scans    of a JPEG; decoding each takes time for all pixels
    seconds  CPU time for one picture; see `limit_cpu_time`
    """

    formats: tuple[str, ...] = FORMATS
    pixels: int = MAX_PIXELS
    scans: int = MAX_SCANS
    seconds: float = DECODE_S


class PictureError(Exception):
    """A file that cannot be used as a picture; the message is the reason."""


@dataclass(frozen=True)
class Picture:
    """A decoded picture: upright, RGB, perhaps smaller than the file. width, height: upright size of the file."""

    image: Image.Image
    width: int
    height: int


def decode_picture(data: bytes, limits: DecodeLimits = DecodeLimits()) -> Picture:
    """Decode the content of a picture file.

    The EXIF orientation is applied, the first frame of an animation is used, transparent parts become white, and
    16-bit grey values are scaled to 8 bits. The file's name plays no role.

    Raises:
        PictureError: the file is empty, of an unknown format, damaged, too large, too small, too narrow, or takes too
            long to decode.
    """
    if not data:
        raise PictureError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
            warnings.filterwarnings("error", "Corrupt EXIF|Truncated File Read")
            with limit_cpu_time(limits.seconds):
                return _decode(data, limits)
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError(_explain_unknown(data, limits.formats)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(f"more than {limits.pixels:,} pixels") from error
    except MemoryError as error:
        raise PictureError("decoding needs more memory than there is") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error and others
        raise PictureError(f"damaged: {str(error).strip() or type(error).__name__}") from error


@contextmanager
def limit_cpu_time(seconds: float) -> Iterator[None]:
    """Raise PictureError in the block after `seconds` of CPU time of this process. No limit outside the main thread.

    A busy machine does not shorten the limit. Pillow decodes JPEG and PNG in steps, between which the error is raised;
    a format that is decoded in one step ends first.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def refuse(*_: object) -> None:
        raise PictureError(f"decoding takes more than {seconds:g} seconds")

    before = signal.signal(signal.SIGVTALRM, refuse)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _decode(data: bytes, limits: DecodeLimits) -> Picture:
    with Image.open(io.BytesIO(data), formats=limits.formats) as image:
        width, height = image.size
        _check_size(width, height, limits.pixels)
        if image.format == "JPEG" and (scans := data.count(_SCAN)) > limits.scans:
            raise PictureError(f"{scans:,} scans, more than {limits.scans}")
        image.draft(None, (_DECODED_SIDE, _DECODED_SIDE))  # type: ignore[arg-type]  # None keeps the colour mode
        image.load()
        if image.getexif().get(0x0112, 1) in (5, 6, 7, 8):  # orientations that swap the sides
            width, height = height, width
        ImageOps.exif_transpose(image, in_place=True)  # without a copy: a large picture takes 100 MB
        return Picture(_convert_to_rgb(image), width, height)


def _check_size(width: int, height: int, pixels: int) -> None:
    short, long = sorted((width, height))
    if width * height > pixels:
        raise PictureError(f"{width} x {height} pixels, more than {pixels:,}")
    if short < MIN_SIDE:
        raise PictureError(f"{width} x {height} pixels, a side is shorter than {MIN_SIDE}")
    if long > MAX_RATIO * short:
        raise PictureError(f"{width} x {height} pixels, one side is more than {MAX_RATIO} times the other")


def _convert_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BITS:
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise PictureError("pixels of 32 bits, whose range of brightness is unknown; convert it to 8 or 16 bits")
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image.convert("RGB")


def _explain_unknown(data: bytes, formats: Sequence[str]) -> str:
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS:
        return "HEIC, for which there is no decoder; convert it to JPEG"
    names = ", ".join("WebP" if name == "WEBP" else name for name in formats)
    return f"not a picture in a known format ({names}), or its header is damaged"


def compute_fingerprint(image: Image.Image) -> tuple[int, np.ndarray]:
    """Return what near-duplicates have in common: a 64-bit hash, and an 8 x 8 RGB thumbnail as uint8 [192].

    The hash has a bit for each of the 8 x 8 lowest frequencies of the 32 x 32 grey picture (its cosine transform): 1
    where the coefficient is above their median (Zauner 2010, "pHash"). It changes little when a picture is scaled or
    compressed again. The thumbnail tells flat pictures apart, whose hash is mostly noise.
    """
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX), np.float64)
    low = _COSINES @ grey @ _COSINES.T
    bits = (low > np.median(low)).ravel()
    thumbnail = np.asarray(image.resize((8, 8), Image.Resampling.BOX), np.uint8).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big"), thumbnail


_COSINES = np.cos(np.pi * np.outer(np.arange(8), 2 * np.arange(32) + 1) / 64)  # [8, 32] type II cosine transform
