"""Motion: which parts of the picture changed, as boxes, at a quarter of a millisecond a frame.

The picture is reduced to about fifty rows of square *cells*, each the mean of a few pixels. Everything below works
on cells, so the cost hardly depends on the picture's size, and averaging removes most of the sensor's noise:

    luma -> cells -> background brought into this frame's light -> change -> threshold a cell -> blobs -> boxes

A scene remembers for each cell the background, how noisy it is, whether it was calm, and how long a change has been
standing still there. Time comes in as an argument and every constant is in seconds, so two frames a second and thirty
give the same boxes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["BoxXyxy", "MotionDetector", "MotionResult", "MotionSettings"]

BoxXyxy = tuple[float, float, float, float]
"""Left, top, right, bottom as fractions of the picture, 0..1."""

_ROWS = 50
"""Rows of cells aimed at: a person a seventh of the picture high still covers seven of them."""
_MIN_SIDE_PX = 16
_WEAK = np.float32(0.6)
"""Hysteresis: next to strong change this fraction of the threshold is enough, as coats blend into walls."""
_CALIBRATING_TAU_S = 0.3
_FLAGGED_SLOWER = 8.0
"""The background adapts this much more slowly where something moves, or a slow walker would dissolve into it."""
_LEARN_EVERY_S = 0.5
"""Noise and standstill are judged at this pace whatever the frame rate: longer than a walker needs to leave a cell."""
_NOISE_UP, _NOISE_DOWN = np.float32(1.08), np.float32(1 / 1.08)
"""Slow enough that somebody who fidgets in one place stays in motion for a good ten seconds."""
_NOISE_MIN, _NOISE_MAX = np.float32(0.3), np.float32(8)
"""Bounds of a cell's median change, luma levels: rounding makes the one, a person in rain must exceed the other."""
_NOISE_FACTOR = np.float32(6)
"""Threshold over a cell's median change: four standard deviations of Gaussian noise."""
_TRUST = 0.2
"""A young background is trusted less: what has stood still for this part of its age replaces it, so that whoever was in
the first picture leaves no ghost behind for long."""
_GAIN_RANGE = (0.5, 2.0)
"""Light change believed between two frames; what is beyond it is a new picture, not a cloud."""
_WHITE = np.float32(255)
_LIGHT_JUMPED = 0.8
"""Below this part of the calm cells still fitting, it may be the light that changed, not the things."""
_MIN_VARIANCE = 4.0
"""Contrast of the background, luma levels squared, from which a gain can be told from an offset."""
_LINK_ROWS = 2
"""Empty rows bridged within one blob: a belt as bright as the pavement must not cut its wearer in two."""
_PAD_CELLS = 0.3
"""Boxes grow by this: the rim of a person covers its cells too little to change them enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MotionSettings:
    """What the camera's owner may turn.

    Attributes:
        threshold: smallest change that counts, luma levels 0..255; noisy places need more by themselves.
        min_cells: strongly changed cells a box needs (a cell's side is about a fiftieth of the picture's height).
        background_s: time constant of the background where nothing moves, seconds.
        still_s: a change that stands still for this long becomes background, seconds.
        calibrate_s: how long the background is learnt, without boxes, at the start and after an upheaval, seconds.
        upheaval: changed fraction of the picture from which it is a new picture (infrared switch, lightning, a
            turned camera) and not motion, 0..1.
    """

    threshold: float = 8.0
    min_cells: int = 3
    background_s: float = 10.0
    still_s: float = 10.0
    calibrate_s: float = 1.0
    upheaval: float = 0.6


@dataclass(frozen=True, slots=True)
class MotionResult:
    """What moved in one frame.

    Attributes:
        score: fraction of the picture's area that moves, 0..1.
        boxes_xyxy: one box a moving thing, fractions 0..1 of width and height, largest thing first.
        calibrating: whether the background is still being learnt; there are no boxes then.
    """

    score: float
    boxes_xyxy: tuple[BoxXyxy, ...]
    calibrating: bool


_CALIBRATING = MotionResult(score=0.0, boxes_xyxy=(), calibrating=True)


class MotionDetector:
    """Finds what moves in front of one camera that stands still.

    Concurrency: one thread at a time; each camera has its own.

    Args:
        settings: what the camera's owner chose.
    """

    def __init__(self, settings: MotionSettings | None = None) -> None:
        self._settings = settings or MotionSettings()
        self._scene: _Scene | None = None

    def step(self, luma: NDArray[np.uint8], at_s: float) -> MotionResult:
        """Look at the next frame.

        A picture of another size, or an instant before the last one, starts calibration anew.

        Args:
            luma: brightness, shape (height, width), at least 16 px each; 100 px high is plenty.
            at_s: when it was taken, seconds on any clock.

        Returns:
            What moved.

        Raises:
            ValueError: the array is no such picture, or the time is no finite number.
        """
        _check(luma, at_s)
        scene = self._scene
        if scene is None or scene.grid.picture != luma.shape or at_s < scene.at_s:
            grid = _Grid(luma.shape[0], luma.shape[1])
            self._scene = _Scene(grid, grid.cells(luma), at_s, self._settings.threshold)
            return _CALIBRATING
        return self._compare(scene, scene.grid.cells(luma), at_s)

    def _compare(self, scene: _Scene, cells: NDArray[np.float32], at_s: float) -> MotionResult:
        """Flag the cells that differ from the background, then let the scene learn from this frame."""
        settings = self._settings
        dt_s, scene.at_s = at_s - scene.at_s, at_s
        difference = scene.relight(cells)
        change = np.abs(difference)
        if at_s - scene.since_s < settings.calibrate_s:
            scene.calibrate(difference, change, dt_s)
            return _CALIBRATING
        flagged, strong = change > scene.weak_limit, change > scene.limit
        if np.count_nonzero(flagged) > settings.upheaval * flagged.size:
            self._scene = _Scene(scene.grid, cells, at_s, settings.threshold)
            return _CALIBRATING
        np.logical_not(flagged, out=scene.calm)
        scene.adapt(difference, dt_s / settings.background_s)
        if at_s - scene.learnt_s >= _LEARN_EVERY_S:
            scene.learn(cells, change, settings.still_s)
        return _describe(scene.grid, flagged, strong, settings.min_cells)


def _check(luma: NDArray[np.uint8], at_s: float) -> None:
    if luma.ndim != 2 or luma.dtype != np.uint8:
        message = f"luma is {luma.dtype} of shape {luma.shape}; pass uint8 of shape (height, width)"
        raise ValueError(message)
    if min(luma.shape) < _MIN_SIDE_PX:
        message = f"luma is {luma.shape[1]}x{luma.shape[0]} px; motion needs at least {_MIN_SIDE_PX} px each way"
        raise ValueError(message)
    if not math.isfinite(at_s):
        message = f"at_s is {at_s}; pass the seconds at which the frame was taken"
        raise ValueError(message)


class _Grid:
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

    def box(self, blob: _Blob) -> BoxXyxy:
        """A blob's box as fractions of the picture; the last cell reaches the edge, whatever was cropped."""
        across, down = self._cell_size
        return (
            max(0.0, (blob.left - _PAD_CELLS) * across),
            max(0.0, (blob.top - _PAD_CELLS) * down),
            1.0 if blob.right == self.columns else (blob.right + _PAD_CELLS) * across,
            1.0 if blob.bottom == self.rows else (blob.bottom + _PAD_CELLS) * down,
        )


class _Scene:
    """All that is remembered of what a camera sees; arrays have shape (size,) and are float32 unless said.

    Args:
        grid: its cells.
        cells: the first picture, which is the background until more are seen.
        at_s: its instant.
        threshold: smallest change that counts, luma levels.
    """

    def __init__(self, grid: _Grid, cells: NDArray[np.float32], at_s: float, threshold: float) -> None:
        self.grid = grid
        self.at_s = self.since_s = self.learnt_s = at_s
        self.calm = np.ones(grid.size, np.bool_)
        self._threshold = np.float32(threshold)
        self._background = cells.copy()
        self._snapshot = cells
        self._still_s = np.zeros_like(cells)
        self._ones = np.ones_like(cells)
        self._set_noise(np.ones_like(cells))

    def _set_noise(self, noise: NDArray[np.float32]) -> None:
        self._noise = np.clip(noise, _NOISE_MIN, _NOISE_MAX)
        self.limit = np.maximum(self._noise * _NOISE_FACTOR, self._threshold)
        self.weak_limit = self.limit * _WEAK

    def relight(self, cells: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring the background into the light of this frame.

        Light is taken as offset + gain * background, fitted by least squares over the calm cells, without those that
        have just begun to move. When few of them fit, either something big came, or the light has jumped and most of
        the others fit once it is followed; calm cells are then copied, as highlights clip and cameras bend curves.

        Returns:
            The frame minus the background in its light.
        """
        fits = self._find_fitting(cells)
        calm, fitting = np.count_nonzero(self.calm), np.count_nonzero(fits)
        if fitting < _LIGHT_JUMPED * calm:
            before = self._background.copy()
            self._follow_light(cells, self.calm)
            self._follow_light(cells, self._find_fitting(cells))
            if np.count_nonzero(self._find_fitting(cells)) > (fitting + calm) / 2:
                np.copyto(self._background, cells, where=self.calm)
                return cells - self._background
            self._background[:] = before
        self._follow_light(cells, fits)
        return cells - self._background

    def _find_fitting(self, cells: NDArray[np.float32]) -> NDArray[np.bool_]:
        fits: NDArray[np.bool_] = np.abs(cells - self._background) <= self.limit
        fits &= self.calm
        return fits

    def _follow_light(self, cells: NDArray[np.float32], where: NDArray[np.bool_]) -> None:
        """Fit gain and offset over some cells, by the normal equations, and apply them to the background."""
        # Inner products, because BLAS takes 1.5 us for each and ufunc sums take 4.
        weights = where.astype(np.float32)
        weighted = self._background * weights
        count = float(weights.dot(self._ones))
        if not count:
            return
        sum_b, sum_bb = float(weighted.dot(self._ones)), float(weighted.dot(self._background))
        sum_c, sum_bc = float(weights.dot(cells)), float(weighted.dot(cells))
        spread = sum_bb - sum_b * sum_b / count
        # A wall without contrast says nothing about gain: all is offset then.
        gain = (sum_bc - sum_b * sum_c / count) / spread if spread > _MIN_VARIANCE * count else 1.0
        gain = min(max(gain, _GAIN_RANGE[0]), _GAIN_RANGE[1])
        self._background *= gain
        self._background += (sum_c - gain * sum_b) / count
        np.minimum(self._background, _WHITE, out=self._background)

    def calibrate(self, difference: NDArray[np.float32], change: NDArray[np.float32], dt_s: float) -> None:
        """Learn fast: background at a rush, noise as the picture's median change, people in it notwithstanding."""
        self._background += difference * np.float32(-math.expm1(-dt_s / _CALIBRATING_TAU_S))
        self._set_noise(np.full_like(change, np.median(change)))

    def adapt(self, difference: NDArray[np.float32], dt_over_tau: float) -> None:
        """Move the background towards the frame, which lies `difference` away (overwritten)."""
        calm_rate, flagged_rate = -math.expm1(-dt_over_tau), -math.expm1(-dt_over_tau / _FLAGGED_SLOWER)
        rate = self.calm.astype(np.float32)
        rate *= calm_rate - flagged_rate
        rate += flagged_rate
        difference *= rate
        self._background += difference

    def learn(self, cells: NDArray[np.float32], change: NDArray[np.float32], still_s: float) -> None:
        """Learn what needs no hurry: how noisy each cell is, and which changes are there to stay."""
        standing = np.abs(cells - self._snapshot) <= self.weak_limit
        standing &= ~self.calm
        self._still_s += np.float32(self.at_s - self.learnt_s)
        self._still_s *= standing
        trusted_s = min(still_s, _TRUST * (self.at_s - self.since_s))
        np.copyto(self._background, cells, where=self._still_s > trusted_s)
        self._snapshot, self.learnt_s = cells, self.at_s

        # Equal steps up and down make a running *median*: a cell that people cross for less than half of the time
        # stays sensitive, while swaying leaves, rain and a flickering lamp raise their own threshold.
        self._set_noise(self._noise * np.where(change > self._noise, _NOISE_UP, _NOISE_DOWN))


def _describe(grid: _Grid, flagged: NDArray[np.bool_], strong: NDArray[np.bool_], min_cells: int) -> MotionResult:
    blobs = [blob for blob in _find_blobs(_find_runs(grid, flagged, strong)) if blob.strong >= min_cells]
    blobs.sort(key=lambda blob: -blob.cells)
    return MotionResult(
        score=sum(blob.cells for blob in blobs) / grid.size,
        boxes_xyxy=tuple(map(grid.box, blobs)),
        calibrating=False,
    )


@dataclass(slots=True)
class _Blob:
    """Flagged cells that belong together; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int
    cells: int
    strong: int

    def add(self, column: int, top: int, bottom: int, strong: int) -> None:
        """Take a vertical run of cells in the last column or the next."""
        self.top, self.right, self.bottom = min(self.top, top), column + 1, max(self.bottom, bottom)
        self.cells += bottom - top
        self.strong += strong

    def absorb(self, other: _Blob) -> None:
        """Take all cells of another blob, which is left empty."""
        self.left = min(self.left, other.left)
        self.top, self.bottom = min(self.top, other.top), max(self.bottom, other.bottom)
        self.cells += other.cells
        self.strong += other.strong
        other.cells, other.right = 0, -1


def _find_runs(
    grid: _Grid, flagged: NDArray[np.bool_], strong: NDArray[np.bool_]
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


def _find_blobs(runs: Iterator[tuple[int, int, int, int]]) -> list[_Blob]:
    """Join runs into blobs, in one pass from left to right.

    A run joins the blobs that reach the column before and whose rows it touches or misses by `_LINK_ROWS`. That is
    coarser than cell-by-cell connection: legs apart stay with their trunk, and boxes hardly ever overlap.
    """
    blobs: list[_Blob] = []
    for column, top, bottom, strong in runs:
        home = None
        for blob in blobs:
            if blob.right < column or blob.top > bottom + _LINK_ROWS or blob.bottom < top - _LINK_ROWS:
                continue
            if home is None:
                home = blob
                home.add(column, top, bottom, strong)
            else:
                home.absorb(blob)
        if home is None:
            blobs.append(_Blob(column, top, column + 1, bottom, bottom - top, strong))
    return [blob for blob in blobs if blob.cells]
