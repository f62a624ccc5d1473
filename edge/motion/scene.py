"""What a camera usually sees: a background in today's light, and how much each cell of it varies by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge.motion.grid import Grid

__all__ = ["LEARN_EVERY_S", "Limits", "Scene"]

_WEAK = np.float32(0.6)
"""Hysteresis: next to strong change this fraction of the threshold is enough, as coats blend into walls."""
_CALIBRATING_TAU_S = 0.3
_FLAGGED_SLOWER = 8.0
"""The background adapts this much more slowly where something moves, or a slow walker would dissolve into it."""
LEARN_EVERY_S = 0.5
"""Noise and standstill are judged at this pace whatever the frame rate: longer than a walker needs to leave a cell."""
_NOISE_UP, _NOISE_DOWN = np.float32(1.08), np.float32(1 / 1.08)
"""Slow enough that somebody who fidgets in one place stays in motion for a good ten seconds."""
_NOISE_MIN, _NOISE_MAX = np.float32(0.3), np.float32(8)
"""Bounds of a cell's median change, luma levels: rounding makes the one, a person in rain must exceed the other."""
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


@dataclass(frozen=True, slots=True)
class Limits:
    """From what size on a change counts.

    Attributes:
        threshold: the least change of a cell, luma levels 0..255.
        noise_factor: the same, as a multiple of the cell's median change.
        cells: strongly changed cells that a thing needs.
    """

    threshold: np.float32
    noise_factor: np.float32
    cells: int


class Scene:
    """All that is remembered of what a camera sees; arrays have shape (size,) and are float32 unless said.

    Args:
        grid: its cells.
        cells: the first picture, which is the background until more are seen.
        at_s: its instant.
        limits: what counts as change.
    """

    def __init__(self, grid: Grid, cells: NDArray[np.float32], at_s: float, limits: Limits) -> None:
        self.grid = grid
        self.at_s = self.since_s = self.learnt_s = at_s
        self.calm = np.ones(grid.size, np.bool_)
        self._limits = limits
        self.background = cells.copy()
        self._snapshot = cells
        self._still_s = np.zeros_like(cells)
        self._ones = np.ones_like(cells)
        self._set_noise(np.ones_like(cells))

    def _set_noise(self, noise: NDArray[np.float32]) -> None:
        self.noise = np.clip(noise, _NOISE_MIN, _NOISE_MAX)
        self.limit = np.maximum(self.noise * self._limits.noise_factor, self._limits.threshold)
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
            before = self.background.copy()
            self._follow_light(cells, self.calm)
            self._follow_light(cells, self._find_fitting(cells))
            if np.count_nonzero(self._find_fitting(cells)) > (fitting + calm) / 2:
                np.copyto(self.background, cells, where=self.calm)
                return cells - self.background
            self.background[:] = before
        self._follow_light(cells, fits)
        return cells - self.background

    def _find_fitting(self, cells: NDArray[np.float32]) -> NDArray[np.bool_]:
        fits: NDArray[np.bool_] = np.abs(cells - self.background) <= self.limit
        fits &= self.calm
        return fits

    def _follow_light(self, cells: NDArray[np.float32], where: NDArray[np.bool_]) -> None:
        """Fit gain and offset over some cells, by the normal equations, and apply them to the background."""
        # Inner products, because BLAS takes 1.5 us for each and ufunc sums take 4.
        weights = where.astype(np.float32)
        weighted = self.background * weights
        count = float(weights.dot(self._ones))
        if not count:
            return
        sum_b, sum_bb = float(weighted.dot(self._ones)), float(weighted.dot(self.background))
        sum_c, sum_bc = float(weights.dot(cells)), float(weighted.dot(cells))
        spread = sum_bb - sum_b * sum_b / count
        # A wall without contrast says nothing about gain: all is offset then.
        gain = (sum_bc - sum_b * sum_c / count) / spread if spread > _MIN_VARIANCE * count else 1.0
        gain = min(max(gain, _GAIN_RANGE[0]), _GAIN_RANGE[1])
        self.background *= gain
        self.background += (sum_c - gain * sum_b) / count
        np.minimum(self.background, _WHITE, out=self.background)

    def calibrate(self, difference: NDArray[np.float32], change: NDArray[np.float32], dt_s: float) -> None:
        """Learn fast: background at a rush, noise as the picture's median change, people in it notwithstanding."""
        self.background += difference * np.float32(-math.expm1(-dt_s / _CALIBRATING_TAU_S))
        self._set_noise(np.full_like(change, np.median(change)))

    def adapt(self, difference: NDArray[np.float32], dt_over_tau: float) -> None:
        """Move the background towards the frame, which lies `difference` away (overwritten)."""
        calm_rate, flagged_rate = -math.expm1(-dt_over_tau), -math.expm1(-dt_over_tau / _FLAGGED_SLOWER)
        rate = self.calm.astype(np.float32)
        rate *= calm_rate - flagged_rate
        rate += flagged_rate
        difference *= rate
        self.background += difference

    def learn(self, cells: NDArray[np.float32], change: NDArray[np.float32], still_s: float) -> None:
        """Learn what needs no hurry: how noisy each cell is, and which changes are there to stay."""
        standing = np.abs(cells - self._snapshot) <= self.weak_limit
        standing &= ~self.calm
        self._still_s += np.float32(self.at_s - self.learnt_s)
        self._still_s *= standing
        trusted_s = min(still_s, _TRUST * (self.at_s - self.since_s))
        np.copyto(self.background, cells, where=self._still_s > trusted_s)
        self._snapshot, self.learnt_s = cells, self.at_s

        # Equal steps up and down make a running *median*: a cell that people cross for less than half of the time
        # stays sensitive, while swaying leaves, rain and a flickering lamp raise their own threshold.
        self._set_noise(self.noise * np.where(change > self.noise, _NOISE_UP, _NOISE_DOWN))
