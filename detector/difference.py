"""Where two pictures differ: a rough finder of movement, for videos that no camera's node has looked at. Pure."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.pictures import Picture
from detector.scene import Box

__all__ = ["Difference"]

_HEIGHT_PX = 120
_LEVELS_MIN = 14
"""Of 256: noise of a compressed video stays below it."""
_AREA_MIN_PX = 6
_FORGETS = 0.15
"""Of the background, by each picture: somebody who stands is part of it after some seconds."""
_JOINS_PX = 3
"""Parts that are nearer than this are one."""
_BOXES_MAX = 40


class Difference:
    """Compares each picture with a running mean of those before."""

    def __init__(self) -> None:
        self._mean: NDArray[np.float32] | None = None

    def boxes(self, picture: Picture) -> tuple[Box, ...]:
        """Where something moves; nothing in the first picture, or in the first of another size.

        Args:
            picture: uint8 [h, w, 3], blue-green-red.

        Returns:
            Fractions of the picture, the largest first.
        """
        height, width = picture.shape[:2]
        size = (max(1, round(width * _HEIGHT_PX / height)), _HEIGHT_PX)
        grey = cv2.cvtColor(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY)
        luma = np.asarray(cv2.GaussianBlur(grey, (3, 3), 0), np.float32)
        if self._mean is None or self._mean.shape != luma.shape:
            self._mean = luma
            return ()
        moved = (np.abs(luma - self._mean) >= _LEVELS_MIN).astype(np.uint8)
        self._mean = self._mean + np.float32(_FORGETS) * (luma - self._mean)
        joined = cv2.dilate(moved, np.ones((_JOINS_PX, _JOINS_PX), np.uint8))
        _, _, stats, _ = cv2.connectedComponentsWithStats(joined)
        # The first one is the background. A box is grown by what joined its parts, which is a margin.
        found = sorted(stats[1:].tolist(), key=lambda stat: -stat[cv2.CC_STAT_AREA])
        return tuple(
            (left / size[0], top / size[1], (left + wide) / size[0], (top + high) / size[1])
            for left, top, wide, high, area in found[:_BOXES_MAX]
            if area >= _AREA_MIN_PX + _JOINS_PX**2
        )
