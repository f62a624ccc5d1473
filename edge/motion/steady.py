"""A camera that shakes: how far it looks aside in a frame, and the frame as it would have been."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge.motion.grid import Grid

__all__ = ["Steady"]

_ROUNDS = 4
_SHIFT_MAX_CELLS = 3.0
"""Further than this, and edges are taken for their neighbours: three cells are a sixteenth of the picture's height."""
_SHIFT_MIN_CELLS = 0.03
_STEP_MIN_CELLS = 0.02
_SHAKES_ON_S = 5.0
"""A camera that has shaken is watched for so long, as a gust comes and goes."""
_HELPS, _HELPED_CELLS = 0.5, 8
"""It was the camera that moved where steadying leaves no more than this part of the change: it leaves 0.4 at most with
people before the camera, and never less than 0.58 of a change of light."""


class Steady:
    """Takes the shaking out of a camera's frames.

    Args:
        grid: of the cells.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._shape = grid.rows, grid.columns
        self._shaken_s = -math.inf

    def shakes(self, at_s: float) -> bool:
        """Whether the camera has shaken a moment ago, so that the next frame should be taken steadied."""
        return at_s - self._shaken_s < _SHAKES_ON_S

    def believe(self, at_s: float, *, before: int, after: int) -> bool:
        """Whether steadying has explained a frame.

        Args:
            at_s: its time.
            before: changed cells as it came.
            after: changed cells as it was steadied.
        """
        if after < _HELPS * before and before - after >= _HELPED_CELLS:
            self._shaken_s = at_s
            return True
        return self.shakes(at_s) and after < before

    def steady(
        self, luma: NDArray[np.uint8], cells: NDArray[np.float32], background: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """The cells as they would be had the camera stood still; `cells` itself when it did.

        Args:
            luma: the frame.
            cells: of the frame, shape (size,).
            background: what to align it with, shape (size,).
        """
        seen, was = cells.reshape(self._shape), background.reshape(self._shape)
        shift = _find_shift(was, seen)
        if shift is None or max(map(abs, shift)) < _SHIFT_MIN_CELLS:
            return cells
        # From the picture and not from its cells: that leaves half as much of a sharp edge.
        right, down = (by * self._grid.side_px for by in shift)
        aside = _look_aside(luma.astype(np.float32), right, down)
        steadied = self._grid.cells((aside + np.float32(0.5)).astype(np.uint8))
        picture, (columns, rows) = steadied.reshape(self._shape), (math.ceil(abs(by)) for by in shift)
        for rim in (
            np.s_[:, :columns],
            np.s_[:, self._shape[1] - columns :],
            np.s_[:rows],
            np.s_[self._shape[0] - rows :],
        ):
            picture[rim] = was[rim]
        return steadied


def _find_shift(background: NDArray[np.float32], cells: NDArray[np.float32]) -> tuple[float, float] | None:
    """How far the picture has moved against the background, in cells right and down; None when that is not the case.

    Args:
        background: shape (rows, columns).
        cells: this frame's, the same shape.

    Source: Lucas and Kanade, "An iterative image registration technique", IJCAI 1981, section 4, for one shift of all.
    """
    slope_x = (background[1:-1, 2:] - background[1:-1, :-2]) / 2
    slope_y = (background[2:, 1:-1] - background[:-2, 1:-1]) / 2
    right = down = 0.0
    for _ in range(_ROUNDS):
        aside = _look_aside(cells, right, down)[1:-1, 1:-1]
        error = aside - background[1:-1, 1:-1]
        bound = np.float32(2.5) * np.abs(error).mean() + np.float32(1.0)
        # Whoever walks about is no part of it.
        trusted = (np.abs(error) < bound + np.abs(slope_x) + np.abs(slope_y)).astype(np.float32)
        error -= (error * trusted).sum() / max(1.0, trusted.sum())
        weighted_x, weighted_y = (slope_x * trusted).ravel(), (slope_y * trusted).ravel()
        xx, yy = float(weighted_x @ slope_x.ravel()), float(weighted_y @ slope_y.ravel())
        xy = float(weighted_x @ slope_y.ravel())
        determinant = xx * yy - xy * xy
        if determinant <= 1e-3 * xx * yy:
            return None
        ex, ey = float(weighted_x @ error.ravel()), float(weighted_y @ error.ravel())
        step_x, step_y = (ey * xy - ex * yy) / determinant, (ex * xy - ey * xx) / determinant
        right, down = right + step_x, down + step_y
        if max(abs(right), abs(down)) > _SHIFT_MAX_CELLS:
            return None
        if math.hypot(step_x, step_y) < _STEP_MIN_CELLS:
            break
    return right, down


def _look_aside(picture: NDArray[np.float32], right: float, down: float) -> NDArray[np.float32]:
    """The picture as it is seen from so much further right and down; its rim is repeated.

    Args:
        picture: shape (rows, columns).
        right: columns.
        down: rows.
    """
    return _blend(_blend(picture, down, 0), right, 1)


def _blend(picture: NDArray[np.float32], by: float, axis: int) -> NDArray[np.float32]:
    whole = math.floor(by)
    places = np.arange(picture.shape[axis]) + whole
    last = picture.shape[axis] - 1
    near = np.take(picture, places.clip(0, last), axis)
    if by == whole:
        return near
    far = np.take(picture, (places + 1).clip(0, last), axis)
    far -= near
    far *= np.float32(by - whole)
    far += near
    return far
