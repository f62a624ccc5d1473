from __future__ import annotations

import io
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from broker.frames import decode_frame, encode_frame
from config.errors import BadPayloadError
from tests.support.messages import frame_meta, jpeg

GOOD = encode_frame(jpeg(), frame_meta())


def test_a_frame_is_a_jpeg_that_any_viewer_opens_with_its_metadata_as_comment() -> None:
    meta = frame_meta(motion=((0.1, 0.2, 0.3, 0.4),))
    payload = encode_frame(jpeg(), meta)
    with Image.open(io.BytesIO(payload)) as picture:
        picture.load()
        assert picture.size == (64, 48)
        comment = picture.info["comment"]
    assert b'"camera":"yard"' in comment
    frame = decode_frame(payload)
    assert frame.meta == meta
    assert frame.jpeg is payload


def test_reading_the_metadata_copies_no_picture() -> None:
    payload = encode_frame(jpeg()[:-2] + bytes(5_000_000) + b"\xff\xd9", frame_meta())
    tracemalloc.start()
    try:
        decode_frame(payload)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


def test_a_comment_behind_other_segments_is_found() -> None:
    app0 = b"\xff\xe0\x00\x04ab"
    assert decode_frame(b"\xff\xd8" + app0 + b"\xff\xff" + GOOD[3:]).meta == frame_meta()


def test_of_several_comments_the_first_counts() -> None:
    own, cameras = encode_frame(jpeg(), frame_meta("yard")), encode_frame(jpeg(), frame_meta("gate"))
    assert decode_frame(own[:-2] + cameras[2:]).meta.camera == "yard"
    assert decode_frame(encode_frame(cameras, frame_meta("yard"))).meta.camera == "yard"


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "not a JPEG"),
        (b"\xff\xd8\xff\xfe\xff\xff" + b" " * 65_533 + b"\xff\xd9", "frame metadata: not JSON"),
        (b"hello", "not a JPEG"),
        (jpeg(), "no comment segment"),
        (GOOD[:40], "no comment segment"),
        (GOOD[:-60], "cut off"),
        (GOOD.replace(b'"camera":', b'"kamera":'), "frame metadata: .*camera"),
        (GOOD.replace(b'"v":1', b'"v":9'), "unknown schema version"),
        (b"\xff\xd8\xff\xfe\x00\x00" + bytes(50), "no comment segment"),
        (b"\xff\xd8\xff\xfe\xff\xff" + bytes(50), "no comment segment"),
        (b"\xff\xd8" + b"\xff\xe0\x00\x02" * 100_000 + GOOD[2:], "no comment segment"),
        (b"\xff\xd8" + b"\xff" * 1_000_000, "no comment segment"),
    ],
)
def test_a_hostile_frame_is_refused_with_the_reason(payload: bytes, reason: str) -> None:
    with pytest.raises(BadPayloadError, match=reason):
        decode_frame(payload)


def test_too_large_a_frame_is_not_looked_at() -> None:
    with pytest.raises(BadPayloadError, match=r"40000000 bytes is more than"):
        decode_frame(bytes(40_000_000))


def test_what_is_no_jpeg_or_too_much_metadata_is_not_encoded() -> None:
    with pytest.raises(BadPayloadError, match="not a JPEG"):
        encode_frame(b"GIF89a", frame_meta())
    with pytest.raises(BadPayloadError, match="one comment segment"):
        encode_frame(jpeg(), frame_meta(motion=((0.1, 0.2, 0.3, 0.4),) * 5000))


@given(st.binary(max_size=200), st.integers(0, len(GOOD)), st.integers(0, len(GOOD)))
def test_damaged_frames_raise_nothing_else(noise: bytes, start: int, end: int) -> None:
    for payload in (noise, b"\xff\xd8" + noise, GOOD[:start] + noise + GOOD[end:], GOOD[:start]):
        try:
            decode_frame(payload)
        except BadPayloadError:
            continue
