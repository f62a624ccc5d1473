from __future__ import annotations

import numpy as np
import pytest

from detector.layouts import YoloxLayout


def rows_with(place: int, values: list[float], classes: int = 3, side: int = 64) -> np.ndarray[tuple[int, int]]:
    rows = np.zeros((YoloxLayout.rows(side, side), 5 + classes), np.float32)
    rows[place, : len(values)] = values
    return rows


def test_yolox_has_a_row_for_each_cell_of_three_grids() -> None:
    assert YoloxLayout.rows(416, 416) == 3549
    assert YoloxLayout.rows(640, 384) == 80 * 48 + 40 * 24 + 20 * 12


def test_cells_and_logarithms_become_pixels() -> None:
    # Row 10 of the grid of stride 8, 8 cells wide: column 2, row 1.
    rows = rows_with(10, [0.5, 0.25, np.log(2), np.log(4), 0.9, 0, 1, 0])
    found = YoloxLayout(64, 64, 3).decode((rows,), 0.5)
    assert found.classes.tolist() == [1]
    assert found.scores.tolist() == pytest.approx([0.9])
    assert found.boxes_px[0].tolist() == pytest.approx([12, -6, 28, 26])


def test_each_grid_has_its_stride() -> None:
    # The last row is the only-but-three cell of the 2 by 2 grid of stride 32.
    rows = rows_with(83, [0, 0, 0, 0, 1, 1, 0, 0])
    found = YoloxLayout(64, 64, 3).decode((rows,), 0.5)
    assert found.boxes_px[0].tolist() == pytest.approx([16, 16, 48, 48])


def test_a_network_that_decodes_by_itself_gives_pixels_and_they_stay() -> None:
    rows = rows_with(10, [20, 10, 16, 32, 0.9, 0, 1, 0])
    rows[83, 0] = 48  # the last cell's centre, in pixels
    found = YoloxLayout(64, 64, 3).decode((rows,), 0.5)
    assert found.boxes_px[0].tolist() == pytest.approx([12, -6, 28, 26])


def test_the_score_is_objectness_times_the_best_class() -> None:
    rows = rows_with(0, [0, 0, 0, 0, 0.5, 0.2, 0.6, 0.9])
    assert YoloxLayout(64, 64, 3).decode((rows,), 0.4).scores.tolist() == pytest.approx([0.45])
    assert len(YoloxLayout(64, 64, 3).decode((rows,), 0.46)) == 0


def test_nonsense_numbers_raise_nothing() -> None:
    rows = np.full((YoloxLayout.rows(64, 64), 8), np.inf, np.float32)
    rows[::2] = np.nan
    with np.errstate(invalid="ignore"):
        YoloxLayout(64, 64, 3).decode((rows,), 0.5)
