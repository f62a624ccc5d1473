"""What hides parts of a picture: every pixel that a polygon touches, and nothing of it between the cells."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.masks import Area, Cells, rasterise
from edge.picture import Picture

Point = tuple[float, float]
Box = tuple[float, float, float, float]
Change = Callable[[Picture], None]

corner = st.tuples(st.floats(0, 1), st.floats(0, 1))
polygon = st.lists(corner, min_size=3, max_size=8)
triangle = st.lists(corner, min_size=3, max_size=3)
size = st.tuples(st.integers(1, 60), st.integers(1, 60))


def picture(seed: int = 0, height_px: int = 90, width_px: int = 160) -> Picture:
    """Noise in all three planes."""
    rng = np.random.default_rng(seed)
    half = ((height_px + 1) // 2, (width_px + 1) // 2)
    y, u, v = (rng.integers(0, 256, shape, np.uint8) for shape in ((height_px, width_px), half, half))
    return Picture(y, u, v)


def area(points: list[Point], of: Picture) -> Area:
    return Area.of_polygons([points], *of.y.shape)


def planes(of: Picture) -> tuple[NDArray[np.uint8], ...]:
    return of.y, of.u, of.v


@settings(max_examples=60, deadline=None)
@example([(0.0, 0.0), (0.0, 0.0), (1.0, 2.2e-313)], (1, 1), [(0.0, 0.0)])
@given(polygon, size, st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=40))
def test_whatever_a_polygon_covers_is_hidden(
    points: list[Point], size_px: tuple[int, int], shares: list[Point]
) -> None:
    height, width = size_px
    hidden = rasterise([points], height, width)
    # Any point of a triangle of its corners that OpenCV, too, has inside the polygon; and any point of its outline.
    outline = np.array([(x * width, y * height) for x, y in points], np.float32)
    for along, aside in shares:
        start = round(along * (len(points) - 1))
        (x0, y0), (x1, y1) = points[start], points[(start + 1) % len(points)]
        x, y = (x0 + aside * (x1 - x0)) * width, (y0 + aside * (y1 - y0)) * height
        assert hidden[min(int(y), height - 1), min(int(x), width - 1)]
        x, y = along * width, aside * height
        if cv2.pointPolygonTest(outline, (x, y), measureDist=True) > 1e-3:
            assert hidden[min(int(y), height - 1), min(int(x), width - 1)]


@settings(max_examples=60, deadline=None)
@given(triangle, size)
def test_nothing_beside_a_polygon_is_hidden(points: list[Point], size_px: tuple[int, int]) -> None:
    height, width = size_px
    outline = np.array([(x * width, y * height) for x, y in points], np.float32)
    for row, column in zip(*np.nonzero(rasterise([points], height, width)), strict=True):
        middle = (float(column) + 0.5, float(row) + 0.5)
        assert cv2.pointPolygonTest(outline, middle, measureDist=True) > -0.75


def test_a_polygon_in_the_corner_and_one_without_width_are_hidden_too() -> None:
    hidden = rasterise([[(1, 1), (1, 1), (1, 1)]], 9, 16)
    assert np.argwhere(hidden).tolist() == [[8, 15]]
    hidden = rasterise([[(0, 0.5), (1, 0.5), (0, 0.5)]], 9, 16)
    assert np.flatnonzero(hidden.any(axis=1)).tolist() == [4]
    assert hidden[4].all()
    assert rasterise([[(0, 0), (1, 0), (1, 1), (0, 1)]], 9, 16).all()


def test_a_polygon_that_crosses_itself_hides_everything_it_goes_around() -> None:
    twice = [(0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9)] * 2
    assert rasterise([twice], 100, 100)[15:85, 15:85].all()
    bow = rasterise([[(0, 0), (1, 1), (1, 0), (0, 1)]], 100, 100)
    assert bow[50, 10]
    assert bow[50, 90]
    assert not bow[5, 50]


@pytest.mark.parametrize(("height", "width"), [(90, 160), (91, 161), (1, 1)])
def test_black_is_black_in_all_planes_and_the_rest_stays(height: int, width: int) -> None:
    before, after = picture(1, height, width), picture(1, height, width)
    points = [(0.3, 0.3), (0.7, 0.4), (0.5, 0.8)]
    hidden = rasterise([points], height, width)
    area(points, after).blacken(after)
    assert (after.y[hidden] == 16).all()
    assert np.array_equal(after.y[~hidden], before.y[~hidden])
    for shown, was in ((after.u, before.u), (after.v, before.v)):
        full = np.kron(shown, np.ones((2, 2), np.uint8))[:height, :width]
        assert (full[hidden] == 128).all()
        changed = shown != was
        covers = np.kron(changed, np.ones((2, 2), np.bool_))[:height, :width]
        assert not covers[~cv2.dilate(hidden.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)].any()


def test_black_of_a_full_range_picture_is_zero() -> None:
    shown = picture(1)
    full = Picture(shown.y, shown.u, shown.v, full_range=True)
    area([(0, 0), (1, 0), (1, 1), (0, 1)], full).blacken(full)
    assert not full.y.any()


def coarsen(*, soft: bool) -> Change:
    def change(shown: Picture) -> None:
        whole = area([(0, 0), (1, 0), (1, 1), (0, 1)], shown)
        whole.coarsen(shown, Cells(shown), soft=soft)

    return change


def soften(shown: Picture, *boxes: Box) -> None:
    people = Area.of_boxes(boxes, *shown.y.shape)
    assert people is not None
    people.coarsen(shown, Cells(shown), soft=True)


def soften_everything(shown: Picture) -> None:
    soften(shown, (-0.5, -0.1, 0.5, 3.0), (0.5, 0.0, 1.1, 1.0))


@pytest.mark.parametrize("change", [coarsen(soft=False), coarsen(soft=True), soften_everything])
@pytest.mark.parametrize(("height", "width"), [(96, 160), (95, 161), (720, 406), (13, 7)])
def test_what_is_coarse_depends_on_the_quantised_means_of_its_cells_alone(
    change: Change, height: int, width: int
) -> None:
    one, other = picture(1, height, width), picture(1, height, width)
    for plane in planes(other):
        side = 2 * -(-height // 24) if plane is other.y else -(-height // 24)
        rows, columns = plane.shape[0] // side, plane.shape[1] // side
        for row in range(rows):
            for column in range(columns):
                # The same pixels elsewhere in their cell: another picture with the same means.
                cell = plane[row * side : (row + 1) * side, column * side : (column + 1) * side]
                cell[:] = cell[:, ::-1]
        plane[rows * side :] = 200
        plane[:, columns * side :] = 30
    change(one)
    change(other)
    for shown, also in zip(planes(one), planes(other), strict=True):
        assert np.array_equal(shown, also)


def test_blocks_are_a_twelfth_of_the_height_in_sixteen_levels() -> None:
    shown = picture(3, 240, 320)
    shown.y[:] = np.linspace(0, 255, 320, dtype=np.uint8)[None, :]
    coarsen(soft=False)(shown)
    blocks = shown.y.reshape(12, 20, 16, 20)
    assert (blocks == blocks[:, :1, :, :1]).all()
    assert set(np.unique(shown.y)) <= set(range(0, 256, 16))
    assert len(np.unique(shown.y)) >= 14


def test_a_soft_picture_has_no_edge_and_keeps_its_light() -> None:
    shown = picture(3, 240, 320)
    shown.y[:, :160] = 40
    shown.y[:, 160:] = 200
    coarsen(soft=True)(shown)
    steps = np.abs(np.diff(shown.y.astype(np.int16), axis=1))
    assert steps.max() <= 9
    assert (abs(int(shown.y[0, 0]) - 40), abs(int(shown.y[0, -1]) - 200)) <= (8, 8)


def test_a_cell_tells_nothing_of_what_was_black_before() -> None:
    shown = []
    for seed in (1, 2):
        one = picture(5, 240, 320)
        secret = np.random.default_rng(seed).integers(0, 256, (60, 60), np.uint8)
        one.y[110:170, 90:150] = secret
        area(
            [(90 / 320, 110 / 240), (149.9 / 320, 110 / 240), (149.9 / 320, 169.9 / 240), (90 / 320, 169.9 / 240)], one
        ).blacken(one)
        coarsen(soft=True)(one)
        shown.append(one)
    assert np.array_equal(shown[0].y, shown[1].y)


def test_a_box_is_softened_and_nothing_beside_it() -> None:
    before, after = picture(4), picture(4)
    soften(after, (0.25, 0.3, 0.5, 0.75), (0.25, 0.3, 0.4, 0.5))
    rows, columns = slice(27, 68), slice(40, 80)
    changed = after.y != before.y
    assert changed[rows, columns].mean() > 0.95
    changed[rows, columns] = False
    assert not changed.any()
    assert (after.u != before.u)[13:34, 20:40].mean() > 0.95
    assert Area.of_boxes([(1.2, 0.1, 1.4, 0.2), (0.5, 0.5, 0.5, 0.5)], 90, 160) is None
