"""Masks, zones and sizes: where movement counts, and how much of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from config.cameras import MotionSettings
from edge.motion.detector import MotionDetector, MotionResult
from edge.motion.grid import Grid

Luma = NDArray[np.uint8]

LEFT = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))
RIGHT = ((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0))


def wall() -> Luma:
    return np.random.default_rng(3).integers(90, 130, (100, 178)).astype(np.uint8)


def with_square(left: int, top: int, side: int = 14) -> Luma:
    picture = wall()
    picture[top : top + side, left : left + side] = 20
    return picture


def see(settings_: MotionSettings, *pictures: Luma) -> MotionResult:
    """The result of the last picture, after a while of the empty wall."""
    detector = MotionDetector(settings_)
    frames = [wall()] * 15 + [picture for picture in pictures for _ in range(2)]
    return [detector.step(luma, k / 10) for k, luma in enumerate(frames)][-1]


def test_what_moves_in_a_mask_does_not_count() -> None:
    masked = MotionSettings(masks={"hedge": LEFT})
    assert see(masked, with_square(30, 40)).boxes_xyxy == ()
    assert see(masked, with_square(30, 40)).score == 0
    assert see(masked, with_square(130, 40)).boxes_xyxy


def test_somebody_half_behind_a_mask_counts_with_the_other_half() -> None:
    result = see(MotionSettings(masks={"hedge": LEFT}), with_square(82, 40))
    assert len(result.boxes_xyxy) == 1
    assert result.boxes_xyxy[0][0] == pytest.approx(0.5, abs=0.02)


def test_the_light_of_a_mask_does_not_matter_to_the_rest() -> None:
    def screen(level: int) -> Luma:
        picture = wall()
        picture[:, :80] = level
        return picture

    detector = MotionDetector(MotionSettings(masks={"screen": ((0.0, 0.0), (0.47, 0.0), (0.47, 1.0), (0.0, 1.0))}))
    levels = np.random.default_rng(1).integers(0, 255, 80)
    results = [detector.step(screen(int(level)), k / 10) for k, level in enumerate(levels)]
    assert not any(result.boxes_xyxy for result in results)
    assert not any(result.calibrating for result in results[15:])


def test_with_zones_only_they_count_and_are_named() -> None:
    zoned = MotionSettings(zones={"door": RIGHT, "gate": LEFT})
    assert see(zoned, with_square(130, 40)).zones == ("door",)
    assert see(zoned, with_square(30, 40)).zones == ("gate",)
    assert see(zoned, with_square(82, 40)).zones == ("door", "gate")
    away = see(MotionSettings(zones={"door": ((0.8, 0.1), (1.0, 0.1), (0.9, 0.3))}), with_square(30, 40))
    assert (away.boxes_xyxy, away.zones, away.score) == ((), (), 0.0)


def test_without_zones_everything_counts_and_nothing_is_named() -> None:
    result = see(MotionSettings(), with_square(30, 40))
    assert result.boxes_xyxy
    assert result.zones == ()


def test_somebody_half_in_a_zone_has_a_whole_box() -> None:
    left, _, right, _ = see(MotionSettings(zones={"door": RIGHT}), with_square(82, 40)).boxes_xyxy[0]
    assert left == pytest.approx(82 / 178, abs=0.02)
    assert right == pytest.approx(96 / 178, abs=0.02)


def test_what_is_smaller_than_the_least_size_does_not_count() -> None:
    share = 14 * 14 / (100 * 178)
    assert see(MotionSettings(min_size=share * 1.5), with_square(30, 40)).boxes_xyxy == ()
    assert see(MotionSettings(min_size=share * 0.6), with_square(30, 40)).boxes_xyxy


def test_the_more_sensitive_the_smaller_and_fainter_it_may_be() -> None:
    def least_side(sensitivity: float) -> int:
        return next(
            side
            for side in range(1, 20)
            if see(MotionSettings(sensitivity=sensitivity), with_square(60, 40, side)).boxes_xyxy
        )

    sides = [least_side(sensitivity) for sensitivity in (0.0, 0.5, 1.0)]
    assert sides[0] > sides[1] >= sides[2]


def test_a_polygon_covers_the_cells_whose_centre_is_in_it() -> None:
    grid = Grid(100, 200)
    covered = grid.cover([((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))]).reshape(grid.rows, grid.columns)
    assert covered[0, 0]
    assert not covered[-1, -1]
    assert covered.mean() == pytest.approx(0.5, abs=0.02)


def test_a_polygon_smaller_than_a_cell_has_one() -> None:
    grid = Grid(100, 200)
    covered = grid.cover([((0.501, 0.501), (0.502, 0.501), (0.502, 0.502))]).reshape(grid.rows, grid.columns)
    assert np.argwhere(covered).tolist() == [[25, 50]]


@settings(max_examples=50, deadline=None)
@given(
    corners=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=8),
    height_px=st.integers(16, 200),
    width_px=st.integers(16, 300),
)
def test_any_polygon_covers_something_within_its_bounds(
    corners: list[tuple[float, float]], height_px: int, width_px: int
) -> None:
    grid = Grid(height_px, width_px)
    covered = np.argwhere(grid.cover([tuple(corners)]).reshape(grid.rows, grid.columns))
    assert len(covered)
    side_px = grid.side_px
    xs, ys = zip(*corners, strict=True)
    assert (covered[:, 1].min() - 1) * side_px <= max(xs) * width_px
    assert (covered[:, 1].max() + 2) * side_px >= min(xs) * width_px
    assert (covered[:, 0].min() - 1) * side_px <= max(ys) * height_px
    assert (covered[:, 0].max() + 2) * side_px >= min(ys) * height_px
