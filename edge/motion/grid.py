"""The grid of cells that motion is judged on, and areas drawn by people on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from config.section import Polygon

__all__ = ["Areas", "Grid"]

_ROWS = 50
"""Rows of cells aimed at: a person a seventh of the picture high still covers seven of them."""
_PAD_CELLS = 0.3
"""Boxes grow by this: the rim of a person covers its cells too little to change them enough."""


class Grid:
    """Cells of one picture size, numbered row by row.

    Args:
        height_px: of the picture.
        width_px: of the picture.
    """

    def __init__(self, height_px: int, width_px: int) -> None:
        self.picture = (height_px, width_px)
        self.side_px = max(1, round(height_px / _ROWS))
        self.rows, self.columns = height_px // self.side_px, width_px // self.side_px
        self.size = self.rows * self.columns
        self._cell_size = self.side_px / width_px, self.side_px / height_px
        self._weights = np.full(self.side_px, 1 / self.side_px**2, np.float32)

    def cells(self, luma: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Mean brightness of each cell, shape (size,), 0..255."""
        side, width_px = self.side_px, self.columns * self.side_px
        bands = luma[: self.rows * side].reshape(self.rows, side, luma.shape[1])[..., :width_px]
        # Row sums by adding slices, the rest by BLAS: nine times faster than .mean(axis=(1, 3)).
        sums = bands[:, 0].astype(np.uint16)
        for k in range(1, side):
            sums += bands[:, k]
        return sums.astype(np.float32).reshape(self.size, side) @ self._weights

    def box(self, left: int, top: int, right: int, bottom: int) -> tuple[float, float, float, float]:
        """Columns and rows, the last ones exclusive, as fractions of the picture.

        The last cell reaches the picture's edge, whatever was cropped.
        """
        across, down = self._cell_size
        return (
            max(0.0, (left - _PAD_CELLS) * across),
            max(0.0, (top - _PAD_CELLS) * down),
            1.0 if right == self.columns else (right + _PAD_CELLS) * across,
            1.0 if bottom == self.rows else (bottom + _PAD_CELLS) * down,
        )

    def cover(self, polygons: Iterable[Polygon]) -> NDArray[np.bool_]:
        """Cells whose centre is in one of the areas, shape (size,); an area smaller than a cell has the cell it is in.

        Args:
            polygons: corners as fractions of the picture; what is covered twice by one polygon's turns is outside it.
        """
        across, down = self._cell_size
        x = (np.arange(self.columns) + 0.5) * across
        y = (np.arange(self.rows)[:, None] + 0.5) * down
        covered = np.zeros((self.rows, self.columns), np.bool_)
        for polygon in polygons:
            inside = np.zeros_like(covered)
            for (x0, y0), (x1, y1) in zip(polygon, (*polygon[1:], polygon[0]), strict=True):
                if y0 != y1:
                    inside ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
            if not inside.any():
                centre_x, centre_y = np.mean(polygon, axis=0)
                inside[min(int(centre_y / down), self.rows - 1), min(int(centre_x / across), self.columns - 1)] = True
            covered |= inside
        return covered.reshape(self.size)


class Areas:
    """A camera's masks and zones on one grid.

    Attributes:
        counted: cells outside all masks, shape (size,); None where there is no mask.
        zones: each zone's name and its cells, shape (rows, columns).

    Args:
        grid: the cells.
        masks: areas in which nothing counts.
        zones: where there are any, only they count.
    """

    def __init__(self, grid: Grid, masks: Mapping[str, Polygon], zones: Mapping[str, Polygon]) -> None:
        self.counted = ~grid.cover(masks.values()) if masks else None
        shape = grid.rows, grid.columns
        self.zones = {name: grid.cover([polygon]).reshape(shape) for name, polygon in zones.items()}
