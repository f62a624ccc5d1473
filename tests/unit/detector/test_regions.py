from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.settings import RegionSettings
from detector.regions import Region, RegionPlanner
from detector.scene import Box, Step, Track

WIDTH_PX, HEIGHT_PX = 1280, 720
INPUT_PX = (416, 416)
NOW_S = 1_790_000_000.0


def box_at(x: float, y: float, *, height: float = 0.06) -> Box:
    """Of a person whose middle is there, as fractions of the picture."""
    width = height * 0.4 * HEIGHT_PX / WIDTH_PX
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def track(
    name: str,
    *steps: tuple[float, Box],
    score: float = 0.7,
    still_since_s: float | None = None,
) -> Track:
    path = tuple(Step(at_s, box) for at_s, box in steps)
    return Track(name, "person", score, path[0].at_s, path, still_since_s=still_since_s)


def plan(
    planner: RegionPlanner,
    at_s: float = NOW_S,
    *,
    motion: Sequence[Box] = (),
    tracks: Sequence[Track] = (),
    budget: int = 4,
    size_px: tuple[int, int] = (WIDTH_PX, HEIGHT_PX),
) -> tuple[Region, ...]:
    return planner.plan(at_s, *size_px, motion=motion, tracks=tracks, input_px=INPUT_PX, budget=budget)


def a_planner(per_frame_max: int = 4, refresh_s: float = 5.0) -> RegionPlanner:
    return RegionPlanner(RegionSettings(per_frame_max=per_frame_max, refresh_s=refresh_s))


def shows(region: Region, box: Box, size_px: tuple[int, int] = (WIDTH_PX, HEIGHT_PX)) -> bool:
    width, height = size_px
    x1, y1, x2, y2 = box
    return (
        region.x <= x1 * width
        and region.y <= y1 * height
        and x2 * width <= region.x + region.width
        and y2 * height <= region.y + region.height
    )


def test_a_frame_that_the_model_sees_hardly_smaller_has_no_parts() -> None:
    moving = [(0.4, 0.4, 0.42, 0.45)]
    for size_px, parts in (((480, 360), 0), ((520, 390), 1)):
        assert len(plan(a_planner(), NOW_S, size_px=size_px, motion=moving)) == parts


def test_nothing_there_needs_no_look() -> None:
    assert plan(a_planner()) == ()


def test_what_moves_and_is_no_object_yet_is_looked_at() -> None:
    moving = box_at(0.3, 0.5)
    (region,) = plan(a_planner(), motion=[moving])
    assert shows(region, moving)
    assert region.width == region.height < HEIGHT_PX / 1.6


def test_a_part_is_never_enlarged_beyond_its_details() -> None:
    (region,) = plan(a_planner(), motion=[box_at(0.5, 0.5, height=0.01)])
    assert region.width == math.ceil(416 / 2.5)


def test_an_object_is_looked_at_where_it_will_be() -> None:
    walking = track("a", (NOW_S - 2, box_at(0.2, 0.5)), (NOW_S - 1, box_at(0.3, 0.5)))
    (region,) = plan(a_planner(), tracks=[walking])
    assert shows(region, box_at(0.4, 0.5))


def test_the_movement_of_an_object_needs_no_look_of_its_own() -> None:
    walking = track("a", (NOW_S - 0.2, box_at(0.3, 0.5)))
    only_it = plan(a_planner(), tracks=[walking])
    assert plan(a_planner(), tracks=[walking], motion=[box_at(0.3, 0.5, height=0.05)]) == only_it


@pytest.mark.parametrize("height", [0.5, 0.9])
def test_what_is_large_the_whole_frame_shows_well(height: float) -> None:
    large = box_at(0.5, 0.5, height=height)
    assert plan(a_planner(), motion=[large], tracks=[track("a", (NOW_S - 1, large))]) == ()


def test_a_small_picture_has_no_more_to_show() -> None:
    assert plan(a_planner(), motion=[box_at(0.5, 0.5)], size_px=(240, 160)) == ()


def test_near_things_share_a_part_and_far_ones_do_not() -> None:
    near = [box_at(0.3, 0.5), box_at(0.36, 0.52)]
    assert len(plan(a_planner(), motion=near)) == 1
    assert len(plan(a_planner(), motion=[*near, box_at(0.9, 0.1)])) == 2


def test_who_was_missed_comes_first() -> None:
    seen = track("seen", (NOW_S - 0.1, box_at(0.2, 0.2)))
    missed = track("missed", (NOW_S - 1.0, box_at(0.8, 0.8)))
    (first,) = plan(a_planner(), tracks=[seen, missed], budget=1)
    assert shows(first, box_at(0.8, 0.8))


def test_who_is_seen_badly_comes_before_who_is_seen_well() -> None:
    well = track("well", (NOW_S - 0.1, box_at(0.2, 0.2)), score=0.9)
    badly = track("badly", (NOW_S - 0.1, box_at(0.8, 0.8)), score=0.5)
    (first,) = plan(a_planner(), tracks=[well, badly], budget=1)
    assert shows(first, box_at(0.8, 0.8))


def test_all_get_their_turn() -> None:
    places = [(0.1, 0.1), (0.9, 0.1), (0.5, 0.5), (0.1, 0.9), (0.9, 0.9)]
    planner = a_planner()
    looks = dict.fromkeys(places, 0)
    for number in range(40):
        at_s = NOW_S + number * 0.2
        tracks = [track(str(place), (at_s - 0.2, box_at(*place))) for place in places[:4]]
        (region,) = plan(planner, at_s, motion=[box_at(*places[4])], tracks=tracks, budget=1)
        for place in places:
            looks[place] += shows(region, box_at(*place))
    assert min(looks.values()) >= 4


def test_a_still_object_is_looked_at_each_refresh() -> None:
    planner = a_planner(refresh_s=5.0)
    looks = []
    for number in range(31):
        at_s = NOW_S + number * 0.5
        still = track("a", (NOW_S - 0.5, box_at(0.3, 0.5)), still_since_s=NOW_S - 60)
        if plan(planner, at_s, tracks=[still]):
            looks.append(at_s - NOW_S)
    assert looks == [4.5, 9.5, 14.5]


def test_a_still_object_is_looked_at_when_something_moves_there() -> None:
    still = track("a", (NOW_S - 0.5, box_at(0.3, 0.5)), still_since_s=NOW_S - 60)
    (region,) = plan(a_planner(), tracks=[still], motion=[box_at(0.3, 0.49, height=0.05)])
    assert shows(region, box_at(0.3, 0.5))


def test_a_clock_that_was_set_back_stops_nothing() -> None:
    planner = a_planner()
    moving = [box_at(0.3, 0.5)]
    assert plan(planner, NOW_S, motion=moving)
    assert plan(planner, NOW_S - 3600, motion=moving)


def test_off_is_off() -> None:
    assert plan(a_planner(per_frame_max=0), motion=[box_at(0.3, 0.5)]) == ()


def test_a_part_is_cut_where_it_is() -> None:
    picture = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    assert np.array_equal(Region(4, 5, 10, 6).cut(picture), picture[5:11, 4:14])


# --- what holds for all pictures --------------------------------------------------------------------------------

_sixteenths = st.integers(0, 16)


@st.composite
def _any_box(draw: st.DrawFn) -> Box:
    x1, x2 = sorted(draw(st.tuples(_sixteenths, _sixteenths)))
    y1, y2 = sorted(draw(st.tuples(_sixteenths, _sixteenths)))
    return x1 / 16, y1 / 16, x2 / 16, y2 / 16


@st.composite
def _any_track(draw: st.DrawFn) -> Track:
    name = draw(st.sampled_from("abcdef"))
    steps = [(NOW_S - age_s, draw(_any_box())) for age_s in (2.0, 0.2)][draw(st.integers(0, 1)) :]
    still_since_s = draw(st.sampled_from([None, NOW_S - 100]))
    return track(name, *steps, score=draw(_sixteenths) / 16, still_since_s=still_since_s)


@given(
    st.lists(_any_box(), max_size=5),
    st.lists(_any_track(), max_size=3, unique_by=lambda one: one.track_id),
    st.tuples(st.integers(1, 4000), st.integers(1, 3000)),
    st.tuples(st.sampled_from([64, 300, 416, 640]), st.sampled_from([64, 300, 416, 640])),
    st.integers(0, 6),
)
def test_parts_lie_in_the_picture_and_in_the_budget(
    motion: list[Box], tracks: list[Track], size_px: tuple[int, int], input_px: tuple[int, int], budget: int
) -> None:
    planner = a_planner(per_frame_max=4)
    whole_scale = min(input_px[0] / size_px[0], input_px[1] / size_px[1])
    for at_s in (NOW_S, NOW_S + 0.5):
        regions = planner.plan(at_s, *size_px, motion=motion, tracks=tracks, input_px=input_px, budget=budget)
        assert len(regions) <= min(4, budget)
        for region in regions:
            assert region.x >= 0
            assert region.y >= 0
            assert 0 < region.width <= size_px[0] - region.x
            assert 0 < region.height <= size_px[1] - region.y
            scale = min(input_px[0] / region.width, input_px[1] / region.height)
            # A part is whole pixels, so a tiny one is a little more than it should be.
            assert scale * (1 + 2 / min(region.width, region.height)) >= 1.6 * whole_scale
