"""Light that changes in a part of the picture: a lamp, a beam, the edge of a cloud's shadow."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge.motion.grid import Grid

__all__ = ["Light"]

_WINDOW = 5
"""Cells, odd: small enough for light to be even in it, large enough for texture to be told from noise."""
_NOISE_SHARE = np.float32(3.0)
"""Left-over texture below this multiple of the noise is noise."""
_CURVE_SHARE = np.float32(0.2)
"""Left-over part of the texture that is not yet something new: cameras bend and clip brightness."""
_SLOPE_NOISE = np.float32(2.2)
"""Variance of a slope over two cells, both ways together, over the squared median change, which is 0.67 deviations."""
_VISIBLE = np.float32(4.0)
"""Texture from this multiple of the noise on would be seen if it were still there."""
_FADED = np.float32(0.4)
"""A surface that has less than this part of the texture it should have in its light is another one."""
_EPISODE_SHARE = 0.005
"""Part of the picture that must be lit anew for light to go on changing: less, and any noisy cell would do."""
_CALM_NOISE = np.float32(2.0)
"""Up to this multiple of the picture's median noise a cell's one frame may stand for its background."""
_EPISODE_S = 1.0
"""How long after light has changed it may still do so."""


class Light:
    """Tells light that changed in a part of the picture from things that came: under another light, texture stays.

    Where slopes of brightness within a window are those of the background times the change of light, plus a ramp, it is
    the same surface. What is left over beyond noise is something new, or its outline; what is missing was covered.

    Args:
        grid: of the cells.
    """

    def __init__(self, grid: Grid) -> None:
        self._shape = grid.rows, grid.columns
        self._down, self._across = _band(grid.rows), _band(grid.columns)
        self._count = self._sum(np.ones(self._shape, np.float32))
        self._reference = np.zeros(grid.size, np.float32)
        self._changed_s = -math.inf

    def changes(self, at_s: float) -> bool:
        """Whether light has changed a moment ago."""
        return at_s - self._changed_s < _EPISODE_S

    def find(
        self,
        at_s: float,
        *,
        cells: NDArray[np.float32],
        background: NDArray[np.float32],
        noise: NDArray[np.float32],
        flagged: NDArray[np.bool_],
    ) -> NDArray[np.bool_] | None:
        """Changed cells that are mere light; all arrays of shape (size,).

        While light goes on changing, all frames are compared with the background as it was before: its cells are
        brought into the new light at different times, and its texture is a patchwork meanwhile.

        Args:
            at_s: the frame's time.
            cells: this frame's.
            background: in whatever light.
            noise: median change of each cell.
            flagged: cells that changed.

        Returns:
            None where most of the change is something new.
        """
        if not self.changes(at_s):
            self._reference = background.copy()
        same, new = self._compare_texture(self._reference, cells, noise)
        if np.count_nonzero(flagged & same) <= np.count_nonzero(flagged & new):
            return None
        lit: NDArray[np.bool_] = flagged & ~new
        if np.count_nonzero(lit) > _EPISODE_SHARE * lit.size:
            self._changed_s = at_s
            # Also where it changed less: a border between old and new light would be texture the next time. But not
            # in a swaying tree, of which one frame is no background.
            lit |= ~new & (noise <= _CALM_NOISE * np.median(noise))
        return lit

    def _sum(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of each cell's window."""
        return np.asarray(self._down @ values @ self._across, np.float32)

    def _compare_texture(
        self, background: NDArray[np.float32], cells: NDArray[np.float32], noise: NDArray[np.float32]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Cells in whose window there is the background's texture, and those with another one or without it.

        Cells of plain surfaces are neither. All arrays of shape (size,).

        Args:
            background: in whatever light.
            cells: this frame's.
            noise: median change of each cell.
        """
        was, seen = background.reshape(self._shape), cells.reshape(self._shape)
        energy, was_energy, common = (np.zeros(self._shape, np.float32) for _ in range(3))
        for axis in (0, 1):
            was_slope, slope = _slope(was, axis), _slope(seen, axis)
            was_sum, seen_sum = self._sum(was_slope), self._sum(slope)
            energy += self._sum(slope * slope) - seen_sum * seen_sum / self._count
            was_energy += self._sum(was_slope * was_slope) - was_sum * was_sum / self._count
            common += self._sum(slope * was_slope) - was_sum * seen_sum / self._count
        common = common.clip(0)
        left_over = energy - common * common / (was_energy + np.float32(1e-3))
        noisy = self._sum((noise * noise).reshape(self._shape)) * _SLOPE_NOISE
        gain = (self._sum(seen) + 1) / (self._sum(was) + 1)
        expected = gain * was_energy
        visible = gain * expected > noisy * _VISIBLE
        new = (left_over > noisy * _NOISE_SHARE + energy * _CURVE_SHARE) | (visible & (common < _FADED * expected))
        return (visible & ~new).reshape(cells.shape), new.reshape(cells.shape)


def _slope(picture: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    return np.asarray(np.gradient(picture, axis=axis), np.float32)


def _band(size: int) -> NDArray[np.float32]:
    """A matrix that sums neighbours within the window."""
    places = np.arange(size)
    return np.asarray(np.abs(places[:, None] - places) <= _WINDOW // 2, np.float32)
