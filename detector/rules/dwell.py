"""It stays in a zone, or in the picture."""

from __future__ import annotations

from config.rules import DwellRule
from detector.rules.objects import Kept, ObjectWatch
from detector.rules.watch import entered_s, is_in_zones, names
from detector.scene import Scene, Track

__all__ = ["DwellWatch"]

_OUTSIDE_S = 2.0
"""Who is outside of the zone for less than this has not left it: a foot on its border is now in, now out."""


class DwellWatch(ObjectWatch):
    """Fires once for each object and stay, `for_s` after it came."""

    settings: DwellRule

    @property
    def _for_s(self) -> float:
        return self.settings.for_s

    def _measure(self, kept: Kept, track: Track, scene: Scene) -> None:
        if is_in_zones(track, self.settings):
            kept.broken_s = None
            if kept.since_s is None:
                kept.since_s = entered_s(track, self.settings)
        elif kept.since_s is not None and kept.breaks(scene.at_s, _OUTSIDE_S):
            kept.end()

    def _say(self, tracks: tuple[Track, ...], held: str) -> str:
        return f"{names(tracks, self.settings, self.camera)} stays for {held}"
