"""Changed cells joined into things: runs down each column, runs into blobs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from edge.motion.grid import Grid

__all__ = ["Blob", "find_blobs"]

_LINK_ROWS = 2
"""Empty rows bridged within one blob: a belt as bright as the pavement must not cut its wearer in two."""
_BLIND_S = 0.4
"""With a longer gap between frames things are believed at once: who waits for the next one comes late."""
_SPEED_PER_S, _LOW_ROWS = 1.0, 3
"""A thing may have moved by its own height a second, or by so many rows where it is lower: a brisk walk is 0.9."""
_GROWTH = 4
"""A thing cannot have come from one that was smaller than this part of it."""
_RISE_S, _FALL_S = 8.0, 20.0
"""How fast weather is believed to worsen and to get better, as time constants."""
_RESTLESS_PER_S = 1.5
"""People's arms and legs make up to 1.2 fleeting things a second on a busy pavement."""
_AGE_MIN_S, _AGE_PER_FLEETING_S2, _AGE_MAX_S = 0.5, 0.05, 1.0
"""The age asked for in bad weather, and how it grows with the number of fleeting things a second."""


@dataclass(slots=True)
class Blob:
    """Changed cells that belong together.

    Attributes:
        left: its first column.
        top: its first row.
        right: the column after its last one.
        bottom: the row after its last one.
        cells: changed cells.
        strong: those among them that changed much.
        age_s: since when there has been a thing here, or near enough to have come from there.
    """

    left: int
    top: int
    right: int
    bottom: int
    cells: int
    strong: int
    age_s: float = 0.0

    def add(self, column: int, top: int, bottom: int, strong: int) -> None:
        """Take a vertical run of cells in the last column or the next."""
        # Thirty times a frame: `min` and `max` would take a twentieth of the whole detector.
        if top < self.top:  # noqa: PLR1730
            self.top = top
        if bottom > self.bottom:  # noqa: PLR1730
            self.bottom = bottom
        self.right = column + 1
        self.cells += bottom - top
        self.strong += strong

    def absorb(self, other: Blob) -> None:
        """Take all cells of another blob, which is left empty."""
        self.left = min(self.left, other.left)
        self.top, self.bottom = min(self.top, other.top), max(self.bottom, other.bottom)
        self.cells += other.cells
        self.strong += other.strong
        other.cells, other.right = 0, -1


def find_blobs(grid: Grid, flagged: NDArray[np.bool_], strong: NDArray[np.bool_]) -> list[Blob]:
    """Join changed cells into blobs, in one pass from left to right.

    A run joins the blobs that reach the column before and whose rows it touches or misses by `_LINK_ROWS`. That is
    coarser than cell-by-cell connection: legs apart stay with their trunk, and boxes hardly ever overlap.

    Args:
        grid: of the cells.
        flagged: cells that changed, shape (size,).
        strong: those that changed much, shape (size,).
    """
    blobs: list[Blob] = []
    near: list[Blob] = []
    reached = -1
    for column, top, bottom, strong_cells in _find_runs(grid, flagged, strong):
        if column != reached:  # most blobs end long before: they are not asked again for each run
            reached, near = column, [blob for blob in near if blob.right >= column]
        highest, lowest = top - _LINK_ROWS, bottom + _LINK_ROWS
        home = None
        for blob in near:
            if blob.top > lowest or blob.bottom < highest or blob.right < column:
                continue
            if home is None:
                home = blob
                home.add(column, top, bottom, strong_cells)
            else:
                home.absorb(blob)
        if home is None:
            home = Blob(column, top, column + 1, bottom, bottom - top, strong_cells)
            blobs.append(home)
            near.append(home)
    return [blob for blob in blobs if blob.cells]


def _find_runs(
    grid: Grid, flagged: NDArray[np.bool_], strong: NDArray[np.bool_]
) -> Iterator[tuple[int, int, int, int]]:
    """Vertical runs of flagged cells as (column, top, bottom, strong cells among them), left to right.

    Vertical, because people are upright: they make a quarter fewer of these than of horizontal ones. Runs without a
    strong cell are left out: shadow, compression noise and motion blur, which would only widen the boxes.
    """
    # One empty cell in front lets the first run begin, an empty row below ends the last one of every column.
    stride = grid.rows + 1
    line = np.zeros(1 + grid.columns * stride, np.int16)
    levels = flagged.view(np.int8) + strong.view(np.int8)
    line[1:].reshape(grid.columns, stride)[:, : grid.rows] = levels.reshape(grid.rows, grid.columns).T
    occupied = line > 0
    edges = np.flatnonzero(occupied[1:] != occupied[:-1])
    if not edges.size:
        return
    sums = np.add.reduceat(line[1:], edges, dtype=np.int16).tolist()
    places = edges.tolist()
    for begin, end, levels_sum in zip(places[::2], places[1::2], sums[::2], strict=True):
        strong_cells = levels_sum - (end - begin)
        if strong_cells:
            column, top = divmod(begin, stride)
            yield column, top, top + end - begin, strong_cells


class Persistence:
    """Tells what lasts from what is seen in one frame only: raindrops, flakes, noise, a codec's keyframes.

    A blob is as old as the oldest one of the frame before that it can have come from. In quiet weather the second
    frame is believed. Where many do not last, some may seem to by chance, and things must be older.
    """

    def __init__(self) -> None:
        self._before: list[Blob] | None = None
        self._fleeting_per_s = 0.0

    def select(self, blobs: list[Blob], dt_s: float, *, wary: bool = False) -> list[Blob]:
        """Those of this frame's blobs that are believed.

        Args:
            blobs: of this frame; they get their age.
            dt_s: since the frame before.
            wary: ask for some age in good weather too.
        """
        if self._before is None or dt_s > _BLIND_S:
            return blobs
        for blob in blobs:
            reach = 1.0 + _SPEED_PER_S * max(blob.bottom - blob.top, _LOW_ROWS) * dt_s
            left, top, right, bottom = blob.left - reach, blob.top - reach, blob.right + reach, blob.bottom + reach
            age_s = 0.0
            for old in self._before:
                met = old.left < right and left < old.right and old.top < bottom and top < old.bottom
                if met and old.age_s + dt_s > age_s and old.cells * _GROWTH >= blob.cells:
                    age_s = old.age_s + dt_s
            blob.age_s = age_s
        wanted_s = _AGE_MIN_S if wary else 0.0
        if self._fleeting_per_s > _RESTLESS_PER_S:
            wanted_s = min(_AGE_MIN_S + _AGE_PER_FLEETING_S2 * self._fleeting_per_s, _AGE_MAX_S)
        return [blob for blob in blobs if blob.age_s > wanted_s]

    def keep(self, blobs: list[Blob], dt_s: float) -> None:
        """Remember this frame's blobs, which have their age, for the next frame."""
        self._before = blobs
        if 0 < dt_s <= _BLIND_S:
            fleeting_per_s = sum(not blob.age_s for blob in blobs) / dt_s
            tau_s = _RISE_S if fleeting_per_s > self._fleeting_per_s else _FALL_S
            self._fleeting_per_s += (fleeting_per_s - self._fleeting_per_s) * -math.expm1(-dt_s / tau_s)
