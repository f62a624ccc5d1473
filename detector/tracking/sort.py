"""Trackforge's SORT: a Kalman filter an object, and the overlap of boxes; stepped in seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trackforge import SORT

from detector.scene import Box

__all__ = ["SortTracker", "next_period_s"]

_TICK_S = 0.1
"""A step of the library's motion model. Its noise is made for video; at 10 steps a second it fits people who walk."""
_TICKS_MAX = 100
"""After so many steps nothing is left of a prediction."""
_FRAMES_A_TICK = 3
"""Each frame is a step at least, and frames come at up to 30 a second."""
_PACE = 1.0
"""Heights of its own that a person who is in a hurry walks in a second (1.7 m/s, 1.7 m). Boxes are widened by what is
walked between two frames, or those of somebody who has just come would not overlap at 2 frames a second: there MOTA
is 0.74 with it and 0.31 without. Source: Yang et al.,
"Hard to Track Objects with Irregular Motions and Similar Appearances? Make It Easier by Buffering the Matching
Space", WACV 2023, section 3.2."""
_WIDENED_MAX = 1.5
"""Heights by which a box is widened at most, on each side: in a picture each 2 s or less only nearness counts."""
_OVERLAP_MIN = 0.3
"""Source: Bewley et al., "Simple Online and Realtime Tracking", ICIP 2016, section 4."""
_PERIOD_S = 0.1
"""Between the frames of a camera, as long as only one has come."""
_NEWEST = 0.3
"""Weight of the newest period in the smoothed one: widened boxes must not jump in size when one frame is late."""
_SCALE = 1000.0
"""The library's noise is in parts of a box's height, but for the aspect; heights of the picture would do as well."""


class SortTracker:
    """Follows the objects of one label in one camera, with the library's motion model stepped by the time that passed.

    Args:
        lost_s: seconds for which an object that is not seen is looked for.
    """

    def __init__(self, *, lost_s: float) -> None:
        self._steps = math.ceil(lost_s / _TICK_S) * _FRAMES_A_TICK
        self._sort = self._open()
        self._last_s: float | None = None
        self._first: Sequence[Box] = ()

    def _open(self) -> SORT:
        return SORT(max_age=self._steps, min_hits=1, iou_threshold=_OVERLAP_MIN)

    def follow(
        self, at_s: float, period_s: float | None, boxes: Sequence[Box], scores: Sequence[float]
    ) -> list[int | None]:
        """Say which object each box of a frame is; see :class:`~detector.tracking.Tracker`."""
        if period_s is None:
            self._first = boxes
        elif self._first:
            # The first frame once more, as wide as the second, or the two would not fit; the numbers stay the same.
            self._sort = self._open()
            self._update(self._first, [1.0] * len(self._first), period_s)
            self._first = ()
        self._step_until(at_s)
        return self._update(boxes, scores, period_s or _PERIOD_S)

    def _update(self, boxes: Sequence[Box], scores: Sequence[float], period_s: float) -> list[int | None]:
        by = min(_WIDENED_MAX, _PACE * period_s)
        found = [(_widened(box, by), score, 0) for box, score in zip(boxes, scores, strict=True)]
        numbers: list[int | None] = [None] * len(found)
        for number, _, _, _, place in self._sort.update(found):
            if place is not None:
                numbers[place] = number
        return numbers

    def _step_until(self, at_s: float) -> None:
        """Let the time pass since the last frame, but for the step that comes with the next update."""
        if self._last_s is not None:
            for _ in range(min(_TICKS_MAX, round((at_s - self._last_s) / _TICK_S)) - 1):
                self._sort.update([])
        self._last_s = at_s


def _widened(box: Box, by: float) -> list[float]:
    """Left, top, width and height of a box that is wider on each side by so many of its heights."""
    x1, y1, x2, y2 = box
    more = (y2 - y1) * by
    return [side * _SCALE for side in (x1 - more, y1 - more, x2 - x1 + 2 * more, y2 - y1 + 2 * more)]


def next_period_s(before_s: float | None, passed_s: float) -> float:
    """The smoothed time between two frames of a camera, after one more.

    Args:
        before_s: what it was; None when this is the first.
        passed_s: seconds since the frame before.
    """
    return passed_s if before_s is None else before_s + _NEWEST * (passed_s - before_s)
