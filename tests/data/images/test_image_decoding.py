"""Pictures of all kinds are decoded upright, or refused with a reason."""

from __future__ import annotations

import io

import numpy as np
import pytest
from picture_files import (
    DAMAGED,
    HEIGHT,
    READABLE,
    WIDTH,
    animation,
    damage_pictures,
    encode,
    half_transparent,
    rotated,
    scene,
    sixteen_bit_grey,
)
from PIL import Image

from hire_model.data.images import pictures
from hire_model.data.images.pictures import DecodeLimits, PictureError, compute_fingerprint, decode_picture


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(decode_picture(data).image).astype(int)


@pytest.mark.parametrize("kind", READABLE)
def test_an_odd_picture_is_read(kind: str) -> None:
    picture = decode_picture(READABLE[kind]())
    assert picture.image.mode == "RGB"
    assert (picture.width, picture.height) == picture.image.size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_picture_is_refused_with_the_reason(kind: str) -> None:
    make, reason = DAMAGED[kind]
    with pytest.raises(PictureError, match=reason):
        decode_picture(make())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_picture_is_turned_upright(orientation: int, kind: str) -> None:
    data = rotated(orientation, kind)
    picture = decode_picture(data)
    assert (picture.width, picture.height) == picture.image.size == (WIDTH, HEIGHT)
    assert np.abs(pixels(data) - np.asarray(scene()).astype(int)).mean() < 12


def test_a_large_rotated_jpeg_keeps_the_size_of_the_file() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = decode_picture(encode(scene(width=4000, height=3000), exif=exif))
    assert (picture.width, picture.height) == (3000, 4000)
    assert 1024 <= picture.image.width < picture.image.height <= 2048


def test_a_picture_with_unreadable_exif_is_refused_because_its_orientation_is_unknown() -> None:
    data = rotated(6)
    place = data.index(b"Exif\0\0") + 6
    with pytest.raises(PictureError, match="EXIF"):
        decode_picture(data[: place + 8] + b"\xff\x7f" + data[place + 10 :])


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation_is_used(kind: str) -> None:
    assert np.abs(pixels(animation(kind)) - np.asarray(scene()).astype(int)).mean() < 15


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    row = pixels(sixteen_bit_grey())[0, :, 0]
    assert row[0] == 0 and row[-1] == 255
    assert 120 < row[WIDTH // 2] < 136


def test_transparent_parts_become_white() -> None:
    assert (pixels(half_transparent())[:, WIDTH // 2 :] == 255).all()


def test_cmyk_keeps_its_colours() -> None:
    assert np.abs(pixels(READABLE["cmyk"]()) - np.asarray(scene()).astype(int)).mean() < 6


def test_a_picture_that_takes_too_long_to_decode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode_for_ever(data: bytes, limits: DecodeLimits) -> None:
        while True:
            pass

    monkeypatch.setattr(pictures, "_decode", decode_for_ever)
    with pytest.raises(PictureError, match="decoding takes more than"):
        decode_picture(b"data", DecodeLimits(seconds=0.05))
    monkeypatch.undo()
    assert decode_picture(READABLE["jpeg"]()).width == WIDTH, "the limit of the earlier picture is off"


def test_300_pictures_with_random_damage_never_raise_another_error() -> None:
    originals = [make() for make in READABLE.values()] + [rotated(6), rotated(3, "PNG")]
    refused = 0
    for data in damage_pictures(300, originals):
        try:
            decode_picture(data)
        except PictureError as error:
            assert str(error)
            refused += 1
    assert refused > 100


def fingerprint_distance(a: Image.Image, b: Image.Image) -> int:
    return (compute_fingerprint(a)[0] ^ compute_fingerprint(b)[0]).bit_count()


def test_a_fingerprint_survives_scaling_and_compression_but_differs_between_pictures() -> None:
    for seed in range(10):
        original = scene(seed, 300, 200)
        small = Image.open(io.BytesIO(encode(original.resize((150, 100)), quality=40)))
        assert fingerprint_distance(original, small) <= 8
        assert fingerprint_distance(original, scene(seed + 100, 300, 200)) > 8
