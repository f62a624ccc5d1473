"""A person lies down where none should lie, and stays there.

From a box's shape, its height beside that of the same person upright, and whether it stays where it is. A model of
poses may come in its place, as another watch of the same kind.
"""

from __future__ import annotations

from config.rules import OnTheGroundRule
from detector.rules.objects import Kept, ObjectWatch, distance_px, size_px
from detector.rules.watch import names
from detector.scene import Box, Scene, Track

__all__ = ["GroundWatch"]

_UPRIGHT_ASPECT = 0.8
"""Width over height up to which a person stands, or sits on a chair."""
_LOW_PART = 0.55
"""A person who lies is at most so high, as a part of the own height upright. Who bends over keeps 0.6 of it or more."""
_LEARNED_PART = 0.25
"""Of how high a person stands, what one more sighting tells: people come nearer and go away."""
_UP_S = 2.0
"""Who does not lie for less than this has not got up: a box may be wrong."""
_CUT = 0.005
"""So near to the picture's edge a box is cut off, and its shape says nothing."""


class GroundWatch(ObjectWatch):
    """Fires once when a person has lain for `for_s`; until that person is up again.

    People whose box touches the picture's edge are left alone: those who stand before the camera are as wide as high.
    """

    settings: OnTheGroundRule
    gone_s = 30.0
    """Models see people who lie now and then only, and a tracker loses who falls."""

    @property
    def _for_s(self) -> float:
        return self.settings.for_s

    def _measure(self, kept: Kept, track: Track, scene: Scene) -> None:
        if self._lies(kept, track, scene):
            kept.broken_s = None
            if kept.since_s is None or _crawled(kept, track, scene):
                kept.box, kept.since_s = track.box, scene.at_s
        elif kept.since_s is None:
            kept.box = track.box
        elif kept.breaks(scene.at_s, _UP_S):
            kept.end()
            kept.box = track.box
        _learn_height(kept, track, scene)

    def _lies(self, kept: Kept, track: Track, scene: Scene) -> bool:
        if _is_cut(track.box) or any(bed in track.zones for bed in self.settings.beds):
            return False
        width, height = size_px(track.box, scene)
        standing = kept.standing * scene.height_px
        return width >= self.settings.aspect_min * height and (not standing or height <= _LOW_PART * standing)

    def _is_same(self, kept: Kept, track: Track, scene: Scene) -> bool:
        # One who lay is only one who lies; one who stood may have fallen.
        if kept.since_s is not None and not self._lies(kept, track, scene):
            return False
        return super()._is_same(kept, track, scene)

    def _say(self, tracks: tuple[Track, ...], held: str) -> str:
        return f"{names(tracks, self.settings, self.camera)} lies on the ground for {held}"


def _is_cut(box: Box) -> bool:
    x1, y1, x2, y2 = box
    return x1 <= _CUT or y1 <= _CUT or x2 >= 1 - _CUT or y2 >= 1 - _CUT


def _crawled(kept: Kept, track: Track, scene: Scene) -> bool:
    """Whether one who lies is elsewhere by more than the own length."""
    return distance_px(kept.box, track.box, scene) > max(size_px(kept.box, scene))


def _learn_height(kept: Kept, track: Track, scene: Scene) -> None:
    width, height = size_px(track.box, scene)
    if _is_cut(track.box) or width > _UPRIGHT_ASPECT * height:
        return
    seen = height / scene.height_px
    kept.standing = seen if not kept.standing else kept.standing + _LEARNED_PART * (seen - kept.standing)
