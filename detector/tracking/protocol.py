"""What a tracker does here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from detector.scene import Box

__all__ = ["Tracker"]


class Tracker(Protocol):
    """Follows the objects of one label in one camera."""

    def follow(
        self, at_s: float, period_s: float | None, boxes: Sequence[Box], scores: Sequence[float]
    ) -> list[int | None]:
        """Say which object each box of a frame is.

        Args:
            at_s: capture time in seconds; later than the last one.
            period_s: seconds between the camera's frames, smoothed; None while that is not known.
            boxes: ``(x1, y1, x2, y2)``, x and y in the same unit: heights of the picture.
            scores: of the boxes, 0 to 1.

        Returns:
            For each box the number of its object, the same in all frames; None where it is none yet.
        """
        ...
