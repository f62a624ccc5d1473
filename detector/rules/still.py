"""Somebody is there and has not moved for too long."""

from __future__ import annotations

import math

from config.rules import StillRule
from detector.rules.objects import Kept, ObjectWatch, size_px
from detector.rules.watch import names
from detector.scene import Scene, Track

__all__ = ["StillWatch"]

_MOVED_PART = 0.25
"""Of an object's size, the root of its area: boxes of one who sits still differ by some hundredths of it."""
_MOVED_S = 1.0
"""Elsewhere for less than this, and not twice, is a box that went wrong."""
_HIDDEN_S = 30.0
"""Only a part of it is seen for less than this: something is before it."""
_INSIDE_PART = 0.05


class StillWatch(ObjectWatch):
    """Fires once when an object was where it is for `for_s`, standing, sitting or lying; until it has moved."""

    settings: StillRule
    gone_s = 30.0
    """Somebody walks past, or the model misses it for a moment: who is there again in its place has not moved."""

    @property
    def _for_s(self) -> float:
        return self.settings.for_s

    def _measure(self, kept: Kept, track: Track, scene: Scene) -> None:
        if kept.since_s is None:
            kept.box, kept.since_s = track.box, scene.at_s
        elif not _has_moved(kept, track, scene):
            kept.broken_s = None
        elif kept.breaks(scene.at_s, _HIDDEN_S if _is_part(kept, track) else _MOVED_S):
            # From when it was first seen elsewhere; where it is now counts from now on.
            since_s = kept.broken_s
            kept.end()
            kept.box, kept.since_s = track.box, since_s

    def _is_same(self, kept: Kept, track: Track, scene: Scene) -> bool:
        return not _has_moved(kept, track, scene)

    def _say(self, tracks: tuple[Track, ...], held: str) -> str:
        return f"{names(tracks, self.settings, self.camera)} has not moved for {held}"


def _has_moved(kept: Kept, track: Track, scene: Scene) -> bool:
    width, height = size_px(kept.box, scene)
    # Of each edge, for who stands up from a chair moves the upper one.
    (x1, y1, x2, y2), (left, top, right, bottom) = kept.box, track.box
    aside = max(abs(left - x1), abs(right - x2)) * scene.width_px
    return max(aside, max(abs(top - y1), abs(bottom - y2)) * scene.height_px) > _MOVED_PART * math.sqrt(width * height)


def _is_part(kept: Kept, track: Track) -> bool:
    """Whether the box lies inside of the one that it had."""
    x1, y1, x2, y2 = kept.box
    aside, above = _INSIDE_PART * (x2 - x1), _INSIDE_PART * (y2 - y1)
    left, top, right, bottom = track.box
    return left >= x1 - aside and right <= x2 + aside and top >= y1 - above and bottom <= y2 + above
