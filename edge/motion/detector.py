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

from config.cameras import MotionSettings
from edge.motion.blobs import Blob, Persistence, find_blobs
from edge.motion.grid import Areas, Grid
from edge.motion.light import Light
from edge.motion.scene import LEARN_EVERY_S, Limits, Scene
from edge.motion.steady import Steady

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BoxXyxy", "MotionDetector", "MotionResult"]

BoxXyxy = tuple[float, float, float, float]
"""Left, top, right, bottom as fractions of the picture, 0..1."""

_MIN_SIDE_PX = 16
_BACKGROUND_S = 10.0
"""Time constant of the background where nothing moves."""
_CALIBRATE_S = 1.0
"""How long the background is learnt, without boxes, at the start and after an upheaval."""
_UPHEAVAL = 0.6
_SUDDEN = 0.015
"""Part of the picture that changes much from one frame to the next without people doing it: twice what they do on
a busy pavement."""
"""Changed part of the picture from which it is a new picture (infrared switch, a turned camera) and not motion."""


@dataclass(frozen=True, slots=True)
class MotionResult:
    """What moved in one frame.

    Attributes:
        score: fraction of the picture's area that moves, 0..1.
        boxes_xyxy: one box a moving thing, fractions 0..1 of width and height, largest thing first.
        calibrating: whether the background is still being learnt; there are no boxes then.
        zones: names of the zones in which something moves, in the order of the settings.
    """

    score: float
    boxes_xyxy: tuple[BoxXyxy, ...]
    calibrating: bool
    zones: tuple[str, ...] = ()


_CALIBRATING = MotionResult(score=0.0, boxes_xyxy=(), calibrating=True)


class MotionDetector:
    """Finds what moves in front of one camera.

    Concurrency: one thread at a time; each camera has its own.

    Args:
        settings: what the camera's owner chose.
    """

    def __init__(self, settings: MotionSettings | None = None) -> None:
        self._settings = settings or MotionSettings()
        self._limits = limits_of(self._settings.sensitivity)
        self._view: _View | None = None

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
        view = self._view
        if view is None or view.grid.picture != luma.shape or at_s < view.scene.at_s:
            grid = Grid(luma.shape[0], luma.shape[1])
            self._view = _View(self._settings, self._limits, grid, grid.cells(luma), at_s)
            return _CALIBRATING
        return view.step(luma, at_s)

    @property
    def changed(self) -> NDArray[np.bool_]:
        """Cells of the last frame that differ from the background, also where they do so all the time.

        Shape (rows, columns), about fifty rows over the whole picture; none of them before the first frame.
        """
        return np.zeros((0, 0), np.bool_) if self._view is None else self._view.changed


@dataclass(slots=True)
class _Look:
    """One frame beside the background; arrays of shape (size,).

    Attributes:
        cells: brightness, as if the camera stood still.
        difference: what it is above the background.
        change: how much that is either way.
        flagged: cells that changed.
        strong: those that changed much.
    """

    cells: NDArray[np.float32]
    difference: NDArray[np.float32]
    change: NDArray[np.float32]
    flagged: NDArray[np.bool_]
    strong: NDArray[np.bool_]


class _View:
    """What one camera sees at one size of picture.

    Args:
        settings: what the camera's owner chose.
        limits: what its sensitivity means.
        grid: of the cells.
        cells: the first picture.
        at_s: its instant.
    """

    def __init__(
        self, settings: MotionSettings, limits: Limits, grid: Grid, cells: NDArray[np.float32], at_s: float
    ) -> None:
        self.grid = grid
        self.scene = Scene(grid, cells, at_s, limits)
        self._settings = settings
        self._limits = limits
        self._areas = Areas(grid, settings.masks, settings.zones)
        self._steady = Steady(grid)
        self._light = Light(grid)
        self._persistence = Persistence()
        self._sudden_min = round(_SUDDEN * grid.size)
        self._size_min = settings.min_size * grid.size
        self._moving = False
        self._change = np.zeros_like(cells)

    @property
    def changed(self) -> NDArray[np.bool_]:
        """Cells of the last frame that changed by the threshold, however noisy they are; shape (rows, columns)."""
        return (self._change > self._limits.threshold).reshape(self.grid.rows, self.grid.columns)

    def step(self, luma: NDArray[np.uint8], at_s: float) -> MotionResult:
        """Flag the cells that differ from the background, then let the scene learn from this frame."""
        scene = self.scene
        dt_s, scene.at_s = at_s - scene.at_s, at_s
        look = self._look(luma)
        if at_s - scene.since_s < _CALIBRATE_S:
            scene.calibrate(look.difference, look.change, dt_s)
            return _CALIBRATING
        if np.count_nonzero(look.strong & scene.calm) > self._sudden_min or self._light.changes(at_s):
            look = self._steadied(luma, look)
            self._take_light(look)
        if np.count_nonzero(look.flagged) > _UPHEAVAL * self.grid.size:
            self.scene = Scene(self.grid, look.cells, at_s, self._limits)
            self._moving = False
            return _CALIBRATING
        blobs = self._find_blobs(look)
        things = self._persistence.select(blobs, dt_s, wary=self._light.changes(at_s))
        if things and not self._moving:
            # Before a movement begins: the smallest shaking and the slowest cloud change few cells a frame.
            look = self._steadied(luma, look)
            self._take_light(look)
            blobs = self._find_blobs(look)
            things = self._persistence.select(blobs, dt_s, wary=self._light.changes(at_s))
        self._persistence.keep(blobs, dt_s)
        self._moving = bool(things)
        self._learn(look, dt_s)
        self._change = look.change
        return self._describe(things, look.flagged)

    def _look(self, luma: NDArray[np.uint8]) -> _Look:
        cells = self.grid.cells(luma)
        if self._steady.shakes(self.scene.at_s):
            cells = self._steady_cells(luma, cells)
        return self._compare(cells)

    def _compare(self, cells: NDArray[np.float32]) -> _Look:
        scene = self.scene
        difference = scene.relight(cells)
        change = np.abs(difference)
        return _Look(cells, difference, change, change > scene.weak_limit, change > scene.limit)

    def _steady_cells(self, luma: NDArray[np.uint8], cells: NDArray[np.float32]) -> NDArray[np.float32]:
        """The frame without the camera's shaking, where that is what changed it; otherwise `cells` itself."""
        scene = self.scene
        steadied = self._steady.steady(luma, cells, scene.background)
        if steadied is cells:
            return cells
        before, after = (
            int(np.count_nonzero(np.abs(seen - scene.background) > scene.weak_limit)) for seen in (cells, steadied)
        )
        return steadied if self._steady.believe(scene.at_s, before=before, after=after) else cells

    def _steadied(self, luma: NDArray[np.uint8], look: _Look) -> _Look:
        """The same for a frame that was looked at already."""
        if not self._settings.steady or self._steady.shakes(self.scene.at_s):
            return look
        cells = self._steady_cells(luma, look.cells)
        return look if cells is look.cells else self._compare(cells)

    def _take_light(self, look: _Look) -> None:
        """Make what is mere light part of the background."""
        scene = self.scene
        lit = self._light.find(
            scene.at_s, cells=look.cells, background=scene.background, noise=scene.noise, flagged=look.flagged
        )
        if lit is not None:
            np.copyto(scene.background, look.cells, where=lit)
            look.difference[lit] = look.change[lit] = 0
            look.flagged &= ~lit
            look.strong &= ~lit

    def _find_blobs(self, look: _Look) -> list[Blob]:
        flagged, strong, counted = look.flagged, look.strong, self._areas.counted
        if counted is not None:
            flagged, strong = flagged & counted, strong & counted
        return [
            blob
            for blob in find_blobs(self.grid, flagged, strong)
            if blob.strong >= self._limits.cells and blob.cells >= self._size_min
        ]

    def _learn(self, look: _Look, dt_s: float) -> None:
        scene = self.scene
        np.logical_not(look.flagged, out=scene.calm)
        scene.adapt(look.difference, dt_s / _BACKGROUND_S)
        if scene.at_s - scene.learnt_s >= LEARN_EVERY_S:
            scene.learn(look.cells, look.change, self._settings.still_s)

    def _describe(self, things: list[Blob], flagged: NDArray[np.bool_]) -> MotionResult:
        grid, zones = self.grid, set[str]()
        if self._areas.zones:
            picture = flagged.reshape(grid.rows, grid.columns)
            things = [blob for blob in things if self._enter_zones(blob, picture, zones)]
        things.sort(key=lambda blob: -blob.cells)
        return MotionResult(
            score=sum(blob.cells for blob in things) / grid.size,
            boxes_xyxy=tuple(grid.box(blob.left, blob.top, blob.right, blob.bottom) for blob in things),
            calibrating=False,
            zones=tuple(name for name in self._areas.zones if name in zones),
        )

    def _enter_zones(self, blob: Blob, flagged: NDArray[np.bool_], entered: set[str]) -> bool:
        """Add to `entered` the zones that have a thing's share of this blob; False when there is none."""
        window = slice(blob.top, blob.bottom), slice(blob.left, blob.right)
        here = [
            name
            for name, cells in self._areas.zones.items()
            if np.count_nonzero(cells[window] & flagged[window]) >= self._limits.cells
        ]
        entered.update(here)
        return bool(here)


def limits_of(sensitivity: float) -> Limits:
    """What a sensitivity of 0..1 means: each step of 0.25 halves the least change; the rest goes with its root.

    At a half, a cell must change by 8 levels and by 6 times its median change, which is four standard deviations of
    Gaussian noise, and three such cells make a thing.
    """
    doubt = 2.0 ** (2.0 - 4.0 * sensitivity)
    return Limits(np.float32(8.0 * doubt), np.float32(6.0 * doubt**0.25), max(1, round(3.0 * doubt**0.5)))


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
