from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.decoding import FOUND_MAX, Found
from detector.merging import Region, merge

WIDTH_PX, HEIGHT_PX = 640, 480
LEFT, RIGHT = Region(0, 100, 200, 200), Region(180, 100, 200, 200)
NMS_IOU = 0.45
BoxPx = tuple[float, float, float, float]


def found(*boxes: tuple[BoxPx, float], label: int = 0) -> Found:
    corners = np.array([box for box, _ in boxes], np.float32).reshape(-1, 4)
    scores = np.array([score for _, score in boxes], np.float32)
    return Found(corners, scores, np.full(len(boxes), label, np.int64))


def within(region: Region, *boxes: tuple[BoxPx, float], label: int = 0) -> tuple[Region, Found]:
    """Boxes of a part, given in pixels of the frame."""
    shift = np.array([region.x, region.y] * 2, np.float32)
    there = found(*boxes, label=label)
    return region, Found(there.boxes_px - shift, there.scores, there.classes)


def joined(whole: Found, *parts: tuple[Region, Found]) -> Found:
    return merge(whole, parts, width_px=WIDTH_PX, height_px=HEIGHT_PX, nms_iou=NMS_IOU)


def told(one: Found) -> list[tuple[BoxPx, float]]:
    return [
        ((box[0], box[1], box[2], box[3]), round(score, 3))
        for box, score in zip(one.boxes_px.tolist(), one.scores.tolist(), strict=True)
    ]


def test_what_only_a_part_shows_is_found() -> None:
    whole = found(((400, 50, 440, 150), 0.8))
    assert told(joined(whole, within(LEFT, ((50, 150, 62, 180), 0.6)))) == [
        ((400, 50, 440, 150), 0.8),
        ((50, 150, 62, 180), 0.6),
    ]


def test_the_closer_look_says_where_and_the_better_one_how_sure() -> None:
    whole = found(((48, 148, 64, 184), 0.9))
    assert told(joined(whole, within(LEFT, ((50, 150, 64, 182), 0.5)))) == [((50, 150, 64, 182), 0.9)]


def test_the_smaller_of_two_parts_looks_closer() -> None:
    wide = Region(0, 0, 400, 400)
    parts = within(wide, ((50, 150, 66, 182), 0.9)), within(LEFT, ((51, 150, 66, 183), 0.6))
    assert told(joined(found(), *parts)) == [((51, 150, 66, 183), 0.9)]


@pytest.mark.parametrize("other", ["whole", "part"])
def test_a_cut_box_goes_when_another_look_shows_all_of_it(other: str) -> None:
    entire, cut = ((185, 150, 225, 250), 0.5), ((185, 150, 200, 250), 0.9)
    whole = found(entire) if other == "whole" else found()
    parts = [within(LEFT, cut)] if other == "whole" else [within(LEFT, cut), within(RIGHT, entire)]
    assert told(joined(whole, *parts)) == [entire]


def test_a_cut_box_stays_when_nobody_else_shows_it() -> None:
    cut = ((185, 150, 200, 250), 0.9)
    assert told(joined(found(), within(LEFT, cut))) == [cut]


def test_at_the_frames_own_edge_nothing_is_cut() -> None:
    at_edge, around = ((0, 150, 30, 250), 0.9), ((0, 140, 90, 260), 0.4)
    assert told(joined(found(around), within(LEFT, at_edge))) == [at_edge]


def test_two_halves_of_one_thing_are_joined() -> None:
    parts = within(LEFT, ((150, 150, 200, 250), 0.6)), within(RIGHT, ((180, 152, 230, 251), 0.7))
    assert told(joined(found(), *parts)) == [((150, 150, 230, 251), 0.7)]


def test_halves_at_different_heights_are_two_things() -> None:
    parts = within(LEFT, ((150, 120, 200, 190), 0.6)), within(RIGHT, ((180, 200, 230, 280), 0.7))
    assert len(joined(found(), *parts)) == 2


def test_what_the_whole_frame_takes_for_one_a_closer_look_tells_apart() -> None:
    both = found(((50, 150, 90, 200), 0.9))
    one, other = ((50, 150, 66, 198), 0.6), ((73, 152, 90, 200), 0.7)
    assert told(joined(both, within(LEFT, one, other))) == [other, one]


@pytest.mark.parametrize(("entire", "half"), [(0.8, 0.6), (0.6, 0.8)])
def test_of_a_thing_and_a_piece_of_it_the_better_stays(entire: float, half: float) -> None:
    whole, piece = ((50, 120, 90, 220), entire), ((52, 121, 88, 160), half)
    assert told(joined(found(whole), within(LEFT, piece))) == [max(whole, piece, key=lambda box: box[1])]


def test_boxes_of_one_look_do_not_compete() -> None:
    pair = found(((50, 150, 90, 250), 0.9), ((55, 150, 95, 250), 0.8))
    far = within(RIGHT, ((300, 150, 320, 200), 0.5))
    assert len(joined(pair, far)) == 3


def test_labels_do_not_compete() -> None:
    box = ((50.0, 150.0, 90.0, 250.0), 0.9)
    assert len(joined(found(box, label=1), within(LEFT, box, label=2))) == 2


def test_no_more_boxes_than_a_message_holds() -> None:
    grid = [((5.0 * k, 5.0 * row, 5.0 * k + 4, 5.0 * row + 4), 0.5) for k in range(60) for row in range(10)]
    assert len(joined(found(*grid[:300]), within(LEFT, *grid[300:]))) == FOUND_MAX


# --- what holds for all boxes -----------------------------------------------------------------------------------

_scores = st.sampled_from([0.3, 0.4, 0.5, 0.6, 0.75, 0.9])
_sizes = st.integers(1, 6)
_labels = st.integers(0, 1)


@st.composite
def _boxes(draw: st.DrawFn, width: int, height: int) -> Found:
    """What a backend says: no two of a label overlap by more than it lets."""
    x, y = st.integers(0, width // 8 - 1), st.integers(0, height // 8 - 1)
    spots = draw(st.lists(st.tuples(x, y, _sizes, _sizes, _scores, _labels), max_size=5))
    there: list[tuple[BoxPx, float, int]] = []
    for left, top, wide, high, score, label in spots:
        box = (8.0 * left, 8.0 * top, min(8.0 * (left + wide), width), min(8.0 * (top + high), height))
        if all(label != other or _iou(box, taken) <= NMS_IOU for taken, _, other in there):
            there.append((box, score, label))
    there.sort(key=lambda one: -one[1])
    return Found(
        np.array([box for box, _, _ in there], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in there], np.float32),
        np.array([label for _, _, label in there], np.int64),
    )


def _iou(first: BoxPx, second: BoxPx) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)) - shared)


@st.composite
def _parts(draw: st.DrawFn) -> list[tuple[Region, Found]]:
    places = draw(st.lists(st.tuples(st.integers(0, 27), st.integers(0, 17)), max_size=2))
    return [(Region(16 * x, 16 * y, 192, 192), draw(_boxes(192, 192))) for x, y in places]


def _sorted(one: Found) -> list[list[float]]:
    rows = np.column_stack((one.boxes_px, one.scores, one.classes))
    return sorted(np.asarray(rows, np.float64).tolist())


@given(_boxes(WIDTH_PX, HEIGHT_PX), st.lists(st.builds(Region, *[st.integers(1, 200)] * 4), max_size=3))
def test_parts_that_show_nothing_change_nothing(whole: Found, regions: list[Region]) -> None:
    assert joined(whole, *[(region, found()) for region in regions]) is whole


@given(_boxes(WIDTH_PX, HEIGHT_PX), _parts())
def test_the_order_of_parts_does_not_matter(whole: Found, parts: list[tuple[Region, Found]]) -> None:
    assert _sorted(joined(whole, *parts)) == _sorted(joined(whole, *parts[::-1]))


@given(_boxes(WIDTH_PX, HEIGHT_PX), _parts())
def test_nothing_is_invented_and_the_best_come_first(whole: Found, parts: Sequence[tuple[Region, Found]]) -> None:
    after = joined(whole, *parts)
    assert len(after) <= len(whole) + sum(len(there) for _, there in parts)
    assert (np.diff(after.scores) <= 0).all()
    corners = np.array([WIDTH_PX, HEIGHT_PX] * 2, np.float32)
    assert ((after.boxes_px >= 0) & (after.boxes_px <= corners)).all()
    scores = np.concatenate([whole.scores, *[there.scores for _, there in parts]])
    assert set(after.scores.tolist()) <= set(scores.tolist())


@given(_boxes(WIDTH_PX, HEIGHT_PX), _parts())
def test_merging_once_more_changes_nothing(whole: Found, parts: Sequence[tuple[Region, Found]]) -> None:
    once = joined(whole, *parts)
    assert _sorted(joined(once, *parts)) == _sorted(once)
