"""What hides a part of a picture: black, coarse cells, or the same cells drawn softly.

Only black hides everything. The other two show that something is there and roughly its colour, and are made of nothing
but the mean of each cell of a fixed grid, a twelfth of the picture's height wide, in sixteen steps. A small blur is no
privacy: it is a linear filter, so the picture can be computed back, and with eight cells across a face a trained model
names its owner. Here the rest of the picture's detail is not attenuated but absent: whatever the two styles show is
computed from those few numbers.

Source: R. McPherson, R. Shokri, V. Shmatikov, "Defeating Image Obfuscation with Deep Learning", 2016, sections 5 and 6.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from edge.picture import Picture

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge.motion.detector import BoxXyxy

    Plane = NDArray[np.uint8]

__all__ = ["Area", "Cells", "rasterise"]

_CELLS_HIGH = 12
"""Rows of cells in a picture. A face is a seventh of a standing person, so it has two at most."""
_STEP_BITS = 4
"""A mean is told to within 16 of 256 levels: finer ones would add up over many pictures of something that moves."""
_ROWS_AVERAGED = 16
"""Rows of a cell that its mean is made of: more cost more and show no less."""
_NO_COLOUR = 128
_ROUNDING_PX = 1e-6
_WHOLE = 256
"""One, in the fixed point numbers of a soft transition."""


def rasterise(polygons: Iterable[Sequence[tuple[float, float]]], height_px: int, width_px: int) -> NDArray[np.bool_]:
    """Every pixel that a polygon touches, were it only by a corner.

    A polygon that crosses itself hides everything that it goes around.

    Args:
        polygons: corners x, y as fractions of the picture's width and height, 0..1.
        height_px: of the picture.
        width_px: of the picture.

    Returns:
        Shape (height, width).
    """
    touched = np.zeros((height_px, width_px), np.bool_)
    for polygon in polygons:
        corners = [(x * width_px, y * height_px) for x, y in polygon]
        # How often the outline goes around the middle of each pixel; those that it crosses are marked by themselves.
        turns = np.zeros((height_px, width_px + 1), np.int16)
        for start, end in zip(corners, [*corners[1:], corners[0]], strict=True):
            _mark_line(touched, start, end)
            _count_turn(turns, start, end)
        touched |= np.cumsum(turns, axis=1, dtype=np.int16)[:, :width_px] != 0
    return touched


def _mark_line(touched: NDArray[np.bool_], start: tuple[float, float], end: tuple[float, float]) -> None:
    """Mark each pixel that a straight line touches."""
    height_px, width_px = touched.shape
    (x0, y0), (x1, y1) = sorted((start, end), key=lambda corner: corner[1])
    slope = (x1 - x0) / (y1 - y0) if y1 - y0 > _ROUNDING_PX else 0.0
    for row in range(int(max(0.0, y0 - _ROUNDING_PX)), min(int(y1), height_px - 1) + 1):
        ends = (x0 + slope * (max(row, y0) - y0), x0 + slope * (min(row + 1, y1) - y0)) if slope else (x0, x1)
        left, right = int(max(0.0, min(ends) - _ROUNDING_PX)), int(max(ends) + _ROUNDING_PX)
        touched[row, min(left, width_px - 1) : right + 1] = True


def _count_turn(turns: NDArray[np.int16], start: tuple[float, float], end: tuple[float, float]) -> None:
    """Count a line for all pixels right of it, whose middle is between its ends: +1 downwards, -1 upwards."""
    (x0, y0), (x1, y1) = start, end
    rows = np.arange(math.ceil(min(y0, y1) - 0.5), math.ceil(max(y0, y1) - 0.5))
    if rows.size:
        crossed_px = x0 + (x1 - x0) / (y1 - y0) * (rows + 0.5 - y0)
        columns = np.clip(np.ceil(crossed_px - 0.5), 0, turns.shape[1] - 1).astype(np.intp)
        turns[rows, columns] += 1 if y1 > y0 else -1


@dataclass(frozen=True, slots=True)
class _Patch:
    """The part of one plane that is hidden: the smallest rectangle around it, and which of its pixels.

    Whole rectangles are combined bit by bit, which takes half the time of choosing pixels.

    Attributes:
        rows: of the plane.
        columns: of the plane.
        hide: 255 where a pixel is hidden, else 0.
        keep: the opposite.
    """

    rows: slice
    columns: slice
    hide: Plane
    keep: Plane

    @classmethod
    def around(cls, hidden: NDArray[np.bool_]) -> Self:
        """The patch of what is hidden; something is."""
        rows, columns = _span(hidden, 1), _span(hidden, 0)
        hide = np.where(hidden[rows, columns], np.uint8(255), np.uint8(0))
        return cls(rows, columns, hide, ~hide)

    def cover(self, plane: Plane, content: Plane | np.uint8) -> None:
        """Put something else there; `content` has the rectangle's shape."""
        view = plane[self.rows, self.columns]
        np.bitwise_and(view, self.keep, out=view)
        np.bitwise_or(view, self.hide & content, out=view)

    def pixels(self, rows: slice, columns: slice) -> int:
        """How many pixels of a part of the plane are hidden."""
        down = slice(max(0, rows.start - self.rows.start), max(0, rows.stop - self.rows.start))
        right = slice(max(0, columns.start - self.columns.start), max(0, columns.stop - self.columns.start))
        return int(np.count_nonzero(self.hide[down, right]))


def _span(hidden: NDArray[np.bool_], axis: int) -> slice:
    where = np.flatnonzero(np.any(hidden, axis=axis))
    return slice(int(where[0]), int(where[-1]) + 1)


def _pixels_of(box_xyxy: BoxXyxy, height_px: int, width_px: int) -> tuple[slice, slice]:
    """Rows and columns of every pixel that a box touches; one of them is empty where it is beyond the edges."""
    left, top, right, bottom = (min(max(edge, 0.0), 1.0) for edge in box_xyxy)
    rows = slice(int(top * height_px), math.ceil(bottom * height_px))
    return rows, slice(int(left * width_px), math.ceil(right * width_px))


class Area:
    """A part of the picture that is hidden, in all three planes.

    Args:
        luma: which pixels of the brightness; at least one.
        colour: which of the colours' planes.
    """

    def __init__(self, luma: NDArray[np.bool_], colour: NDArray[np.bool_]) -> None:
        self._luma = _Patch.around(luma)
        self._colour = _Patch.around(colour)

    @classmethod
    def of_polygons(cls, polygons: Iterable[Sequence[tuple[float, float]]], height_px: int, width_px: int) -> Self:
        """Every pixel that a polygon touches; one of the colours' planes is hidden with any of the four it covers."""
        luma = rasterise(polygons, height_px, width_px)
        even = np.pad(luma, ((0, height_px % 2), (0, width_px % 2)))
        return cls(luma, even[0::2, 0::2] | even[1::2, 0::2] | even[0::2, 1::2] | even[1::2, 1::2])

    @classmethod
    def of_boxes(cls, boxes_xyxy: Iterable[BoxXyxy], height_px: int, width_px: int) -> Self | None:
        """Every pixel that a box touches; None where all of them are beyond the picture's edges."""
        luma = np.zeros((height_px, width_px), np.bool_)
        colour = np.zeros(((height_px + 1) // 2, (width_px + 1) // 2), np.bool_)
        for box in boxes_xyxy:
            rows, columns = _pixels_of(box, height_px, width_px)
            if rows.start < rows.stop and columns.start < columns.stop:
                luma[rows, columns] = True
                colour[rows.start // 2 : (rows.stop + 1) // 2, columns.start // 2 : (columns.stop + 1) // 2] = True
        return cls(luma, colour) if luma.any() else None

    def covered(self, box_xyxy: BoxXyxy, height_px: int, width_px: int) -> float:
        """The part of a box that is hidden, 0 to 1; a box beyond the picture's edges is not."""
        rows, columns = _pixels_of(box_xyxy, height_px, width_px)
        size_px = max(0, rows.stop - rows.start) * max(0, columns.stop - columns.start)
        return self._luma.pixels(rows, columns) / size_px if size_px else 0.0

    def blacken(self, picture: Picture) -> None:
        """Show nothing there."""
        self._luma.cover(picture.y, np.uint8(picture.black))
        self._colour.cover(picture.u, np.uint8(_NO_COLOUR))
        self._colour.cover(picture.v, np.uint8(_NO_COLOUR))

    def coarsen(self, picture: Picture, cells: Cells, *, soft: bool) -> None:
        """Show the cells there, as blocks or softly."""
        for plane, patch, grid in zip(
            (picture.y, picture.u, picture.v), (self._luma, self._colour, self._colour), cells.grids, strict=True
        ):
            patch.cover(plane, grid.draw(patch.rows, patch.columns, soft=soft))


class Cells:
    """The quantised means of a picture's cells.

    Args:
        picture: as it is now; what is hidden in it already is in no mean.
    """

    def __init__(self, picture: Picture) -> None:
        side_px = 2 * math.ceil(picture.y.shape[0] / (2 * _CELLS_HIGH))
        self.grids = (_Grid(picture.y, side_px), _Grid(picture.u, side_px // 2), _Grid(picture.v, side_px // 2))


class _Grid:
    """One plane's cells; what is left over at the right and at the bottom belongs to the last ones."""

    def __init__(self, plane: Plane, side_px: int) -> None:
        height_px, width_px = plane.shape
        self._high_px, self._wide_px = min(side_px, height_px), min(side_px, width_px)
        rows, columns = height_px // self._high_px, width_px // self._wide_px
        sampled = plane[: rows * self._high_px, : columns * self._wide_px].reshape(rows, self._high_px, -1)
        sampled = sampled[:, :: max(1, self._high_px // _ROWS_AVERAGED)]
        sums = sampled.sum(axis=1, dtype=np.uint16).reshape(rows, columns, self._wide_px).sum(axis=2, dtype=np.uint32)
        means = sums // (sampled.shape[1] * self._wide_px)
        half = 1 << (_STEP_BITS - 1)
        steps = np.minimum((means + half) >> _STEP_BITS, (256 >> _STEP_BITS) - 1)
        self._means = (steps << _STEP_BITS).astype(np.uint16)

    def draw(self, rows: slice, columns: slice, *, soft: bool) -> Plane:
        """A rectangle of the plane as its cells show it; softly, each mean stands for its cell's middle alone."""
        down = _Way(rows, self._high_px, self._means.shape[0])
        right = _Way(columns, self._wide_px, self._means.shape[1])
        if not soft:
            blocks: Plane = self._means.astype(np.uint8)[:, right.cell][down.cell]
            return blocks
        lines = self._means[:, right.before] * (_WHOLE - right.share) + self._means[:, right.after] * right.share
        lines >>= 8
        drawn = np.empty((len(down.cell), len(right.cell)), np.uint8)
        # Row by row of cells: what is added and shifted then stays in the processor's cache.
        for cell in range(int(down.before[0]), int(down.before[-1]) + 1):
            first, end = np.searchsorted(down.before, (cell, cell + 1))
            share = down.share[first:end, None]
            band = lines[cell] * (_WHOLE - share)
            band += lines[min(cell + 1, len(lines) - 1)] * share
            drawn[first:end] = band >> 8
        return drawn


class _Way:
    """Where each of a row's, or a column's, pixels is among the cells."""

    def __init__(self, span: slice, side_px: int, count: int) -> None:
        at = np.arange(span.start, span.stop)
        self.cell = np.minimum(at // side_px, count - 1)
        # In 256ths of a cell from the middle of the first one.
        along = np.clip(((2 * at + 1) * _WHOLE // side_px - _WHOLE) // 2, 0, (count - 1) * _WHOLE)
        self.before = np.minimum(along // _WHOLE, count - 1)
        self.after = np.minimum(self.before + 1, count - 1)
        self.share = (along % _WHOLE).astype(np.uint16)
