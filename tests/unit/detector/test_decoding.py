from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import Detections, decode_json, encode_json
from detector.decoding import FOUND_MAX, Fit, Found, best, suppress, to_detections, to_picture
from detector.layouts import YoloxLayout
from tests.support.messages import AT
from tests.unit.detector.stand_ins import MODEL

sides = st.integers(1, 3000)


def found(*boxes: tuple[float, float, float, float, float, int]) -> Found:
    table = np.array(boxes, np.float32).reshape(-1, 6)
    return Found(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


@given(sides, sides, st.tuples(*[st.floats(0, 1)] * 4))
def test_a_box_comes_back_from_the_networks_input_to_where_it_was(
    width: int, height: int, corners: tuple[float, float, float, float]
) -> None:
    x1, x2 = sorted((corners[0] * width, corners[2] * width))
    y1, y2 = sorted((corners[1] * height, corners[3] * height))
    scale = min(416 / width, 416 / height)
    there = found((x1 * scale, y1 * scale, x2 * scale, y2 * scale, 0.5, 0))
    back = to_picture(there, Fit(width, height, scale, scale))
    for box in back.boxes_px:
        assert box == pytest.approx([x1, y1, x2, y2], rel=1e-4, abs=1e-2)
    if x2 - x1 > 0.1 and y2 - y1 > 0.1:
        assert len(back) == 1


@given(sides, sides, st.lists(st.tuples(*[st.floats(-5000, 5000, width=32)] * 4), max_size=20))
def test_boxes_are_clipped_to_the_picture_and_can_be_sent(
    width: int, height: int, boxes: list[tuple[float, float, float, float]]
) -> None:
    clipped = to_picture(found(*((*box, 0.5, 0) for box in boxes)), Fit(width, height, 0.75, 0.75))
    detections = to_detections(clipped, ("person",), width, height)
    assert len(detections) == len(clipped)
    for detection in detections:
        x1, y1, x2, y2 = detection.box_px
        assert 0 <= x1 <= x2 <= width
        assert 0 <= y1 <= y2 <= height
        assert all(0 <= edge <= 1 for edge in detection.box)
    message = Detections(
        camera="yard", frame_seq=1, worker="n.detector", model=MODEL, width=width, height=height, captured_at=AT,
        received_at=AT, infer_started_at=AT, infer_ms=1.0, batch=1, published_at=AT, detections=detections,
    )  # fmt: skip
    assert decode_json(Detections, encode_json(message), max_bytes=1_000_000) == message


def test_boxes_that_are_not_numbers_are_left_out() -> None:
    nan = float("nan")
    assert len(to_picture(found((nan, nan, nan, nan, 0.9, 0)), Fit(100, 100))) == 0


def test_of_boxes_of_one_class_that_overlap_the_best_stays() -> None:
    kept = suppress(found((0, 0, 10, 10, 0.6, 0), (1, 0, 11, 10, 0.9, 0), (50, 50, 60, 60, 0.5, 0)), 0.45)
    assert kept.scores.tolist() == pytest.approx([0.9, 0.5])


def test_boxes_of_different_classes_do_not_suppress_each_other() -> None:
    assert len(suppress(found((0, 0, 10, 10, 0.6, 0), (0, 0, 10, 10, 0.9, 1)), 0.45)) == 2


def test_a_suppressed_box_suppresses_nothing() -> None:
    # Each overlaps its neighbour by more than the limit, the outer two do not.
    kept = suppress(found((0, 0, 10, 10, 0.9, 0), (3, 0, 13, 10, 0.8, 0), (6, 0, 16, 10, 0.7, 0)), 0.4)
    assert kept.boxes_px[:, 0].tolist() == [0, 6]


def test_a_box_in_an_input_that_was_stretched_or_has_a_rim_comes_back_too() -> None:
    there = found((100, 60, 200, 160, 0.5, 0))
    assert to_picture(there, Fit(480, 360, 2.0, 0.5)).boxes_px.tolist() == [[50, 120, 100, 320]]
    assert to_picture(there, Fit(480, 360, 0.5, 0.5, 10, 20)).boxes_px.tolist() == [[180, 80, 380, 280]]


def test_nothing_found_stays_nothing() -> None:
    assert len(suppress(found(), 0.45)) == 0
    assert len(best(found())) == 0


def test_a_box_of_no_numbers_suppresses_nothing() -> None:
    nan = float("nan")
    kept = suppress(found((nan, 0, nan, 10, 0.9, 0), (0, 0, 10, 10, 0.6, 0), (0, 0, float("inf"), 10, 0.7, 0)), 0.45)
    assert kept.scores.tolist() == pytest.approx([0.6])


def test_the_number_of_boxes_is_bounded() -> None:
    crowd = found(*((20 * n, 0, 20 * n + 10, 10, 0.5, 0) for n in range(2 * FOUND_MAX)))
    assert len(suppress(crowd, 0.45)) == FOUND_MAX
    assert len(best(crowd)) == FOUND_MAX


def test_a_recorded_output_decodes_to_the_boxes_that_opencv_finds_in_it() -> None:
    recorded = np.load(Path(__file__).parent / "recorded" / "yolox_nano_street.npz")
    rows = np.zeros((YoloxLayout.rows(416, 416), 85), np.float32)
    rows[recorded["places"]] = recorded["rows"]
    raw = YoloxLayout(416, 416, 80).decode((rows,), 0.35)
    scale = float(recorded["scale"])
    decoded = to_picture(suppress(raw, 0.45), Fit(480, 360, scale, scale))
    expected = recorded["expected"]
    assert decoded.classes.tolist() == expected[:, 5].tolist()
    assert decoded.scores == pytest.approx(expected[:, 4], abs=1e-5)
    extent = np.array([480, 360, 480, 360])
    assert decoded.boxes_px == pytest.approx(np.clip(expected[:, :4], 0, extent), abs=0.01)
