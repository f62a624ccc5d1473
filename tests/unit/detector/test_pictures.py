from __future__ import annotations

import contextlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import Frame
from config import BadPayloadError
from detector.pictures import jpeg_size, read_picture
from tests.support.messages import frame_meta, jpeg


def resized_header(picture: bytes, width: int, height: int) -> bytes:
    """The same JPEG with another size in its header."""
    place = picture.index(b"\xff\xc0") + 5
    return picture[:place] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + picture[place + 4 :]


def test_the_size_is_read_from_the_header() -> None:
    assert jpeg_size(jpeg(300, 20)) == (300, 20)


def test_a_progressive_jpeg_has_a_size_too() -> None:
    done, encoded = cv2.imencode(".jpg", np.zeros((30, 50, 3), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    assert done
    assert jpeg_size(encoded.tobytes()) == (50, 30)


def test_a_frame_becomes_pixels_in_blue_green_red() -> None:
    pixels = read_picture(Frame(frame_meta(), jpeg(64, 48, colour=(250, 10, 10))))
    assert pixels.shape == (48, 64, 3)
    blue, _, red = pixels[20, 20]
    assert red > 200
    assert blue < 50


@pytest.mark.parametrize(
    ("size_px", "fits_px", "decoded_px"),
    [
        ((640, 480), None, (640, 480)),
        ((640, 480), (640, 480), (640, 480)),
        ((640, 480), (416, 416), (640, 480)),
        ((832, 480), (416, 416), (416, 240)),
        ((834, 480), (416, 416), (417, 240)),
        ((831, 480), (416, 416), (831, 480)),
        ((1920, 1080), (416, 416), (480, 270)),
        ((480, 1920), (416, 416), (120, 480)),
        ((3840, 100), (64, 64), (480, 13)),
        ((64, 48), (416, 416), (64, 48)),
    ],
)
def test_a_picture_is_decoded_no_larger_than_it_is_needed(
    size_px: tuple[int, int], fits_px: tuple[int, int] | None, decoded_px: tuple[int, int]
) -> None:
    width, height = size_px
    pixels = read_picture(Frame(frame_meta(width=width, height=height), jpeg(width, height)), fits_px)
    assert pixels.shape == (decoded_px[1], decoded_px[0], 3)


def test_a_picture_that_claims_to_be_enormous_is_not_decoded() -> None:
    bomb = resized_header(jpeg(), 65535, 65535)
    with pytest.raises(BadPayloadError, match="65535x65535 is more than"):
        read_picture(Frame(frame_meta(width=65535, height=65535), bomb))


def test_metadata_that_does_not_fit_the_picture_is_refused() -> None:
    with pytest.raises(BadPayloadError, match="the picture is 64x48 and its metadata says 32x24"):
        read_picture(Frame(frame_meta(width=32, height=24), jpeg()))


@pytest.mark.parametrize(
    "broken",
    [b"\xff\xd8\xff\xd9", b"\xff\xd8" + b"\x00" * 50 + b"\xff\xd9", jpeg()[:80], b"", b"\xff\xd8\xff\xda\x00\x02"],
)
def test_what_is_no_picture_is_refused(broken: bytes) -> None:
    with pytest.raises(BadPayloadError, match=r"frame header|cannot be decoded"):
        read_picture(Frame(frame_meta(), broken))


def test_an_orientation_tag_does_not_turn_the_picture_away_from_its_boxes() -> None:
    exif = (
        b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00"
    )
    plain = jpeg(64, 48)
    turned = plain[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + plain[2:]
    assert read_picture(Frame(frame_meta(), turned)).shape == (48, 64, 3)


@given(st.binary(max_size=300), st.integers(0, 600))
def test_a_damaged_frame_is_a_picture_or_a_bad_payload(noise: bytes, place: int) -> None:
    whole = jpeg()
    damaged = whole[:place] + noise + whole[place + len(noise) :]
    with contextlib.suppress(BadPayloadError):
        assert read_picture(Frame(frame_meta(), damaged)).shape == (48, 64, 3)
