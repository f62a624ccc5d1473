from __future__ import annotations

from datetime import datetime, timedelta, timezone

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.messages import Detection
from config import PermanentError
from detector.evidence import annotate, encode_within
from detector.pictures import Picture
from tests.support.messages import AT

SOMEBODY = Detection(label="person", score=0.87, box=(0.25, 0.25, 0.5, 0.75), box_px=(160, 90, 320, 270))


def grey(width: int = 640, height: int = 360) -> Picture:
    return np.full((height, width, 3), 90, np.uint8)


def noise(width: int, height: int) -> Picture:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)


def test_the_box_is_drawn_where_the_detection_is_and_nothing_inside_it() -> None:
    shown = annotate(grey(), [SOMEBODY], camera="yard", captured_at=AT)
    assert (shown[180, 160] != 90).any()
    assert (shown[180, 320] != 90).any()
    assert (shown[180, 240] == 90).all()
    assert (shown[180, 500] == 90).all()


def test_the_label_is_written_above_the_box() -> None:
    shown = annotate(grey(), [SOMEBODY], camera="yard", captured_at=AT)
    assert (shown[75:87, 165:220] != 90).any(axis=2).mean() > 0.9


def test_camera_and_time_stand_at_the_bottom_in_utc() -> None:
    local = AT.astimezone(timezone(timedelta(hours=5)))
    shown = annotate(grey(), [], camera="yard", captured_at=AT)
    assert (shown == annotate(grey(), [], camera="yard", captured_at=local)).all()
    other_time = annotate(grey(), [], camera="yard", captured_at=AT + timedelta(hours=1))
    other_camera = annotate(grey(), [], camera="gate", captured_at=AT)
    assert (shown[-30:, 320:] != other_time[-30:, 320:]).any()
    assert (shown[-30:, :320] != other_camera[-30:, :320]).any()
    assert (shown[:-30] == other_time[:-30]).all()


def test_the_frame_itself_stays_as_it_is() -> None:
    picture = grey()
    annotate(picture, [SOMEBODY], camera="yard", captured_at=AT)
    assert (picture == 90).all()


@pytest.mark.parametrize(
    ("size", "expected"), [((640, 360), (640, 360)), ((3840, 2160), (1280, 720)), ((320, 240), (640, 480))]
)
def test_it_is_neither_too_small_to_read_nor_needlessly_large(size: tuple[int, int], expected: tuple[int, int]) -> None:
    shown = annotate(grey(*size), [SOMEBODY], camera="yard", captured_at=AT)
    assert (shown.shape[1], shown.shape[0]) == expected


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 900),
    st.integers(1, 900),
    st.tuples(*[st.floats(0, 1)] * 4),
    st.text(min_size=1, max_size=60),
    st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1)),  # noqa: DTZ001 - made aware below
)
def test_any_picture_box_label_and_time_can_be_drawn(
    width: int, height: int, box: tuple[float, float, float, float], label: str, moment: datetime
) -> None:
    detection = Detection(label=label, score=0.5, box=box, box_px=(0, 0, 1, 1))
    shown = annotate(grey(width, height), [detection], camera="c" * 63, captured_at=moment.astimezone())
    assert shown.ndim == 3


def test_a_picture_that_fits_keeps_its_size_and_the_best_quality() -> None:
    jpeg, width, height = encode_within(grey(), 150_000)
    assert (width, height) == (640, 360)
    _, best = cv2.imencode(".jpg", grey(), [cv2.IMWRITE_JPEG_QUALITY, 85])
    assert jpeg == best.tobytes()


@pytest.mark.parametrize("bytes_max", [5_000, 20_000, 100_000, 150_000])
def test_a_picture_that_does_not_fit_loses_quality_and_then_size(bytes_max: int) -> None:
    jpeg, width, height = encode_within(noise(800, 600), bytes_max)
    assert len(jpeg) <= bytes_max
    assert len(jpeg) > bytes_max / 4
    decoded = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert decoded.shape == (height, width, 3)
    assert width / height == pytest.approx(4 / 3, rel=0.05)


def test_quality_goes_before_size() -> None:
    picture = noise(400, 300)
    _, worst = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 50])
    assert encode_within(picture, len(worst))[1] == 400


def test_what_can_never_fit_is_said() -> None:
    with pytest.raises(PermanentError, match="evidence_bytes_max"):
        encode_within(noise(800, 600), 100)
