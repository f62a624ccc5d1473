"""Somebody, or something, is there."""

from __future__ import annotations

from datetime import datetime

from broker.messages import RuleMemory
from config.durations import format_duration
from config.rules import PresenceRule
from detector.rules.watch import Progress, RuleWatch, entered_s, names, reached
from detector.scene import Scene

__all__ = ["PresenceWatch"]


class PresenceWatch(RuleWatch):
    """Fires while an object is seen that has been there for `for_s`, and again after each cooldown."""

    settings: PresenceRule

    def _look(self, scene: Scene, begun_s: float) -> Progress | None:
        seen = [track for track in scene.tracks if track.seen_s >= scene.at_s and self.counts(track)]
        if not seen:
            return None
        for_s = self.settings.for_s
        held = {t.track_id: scene.at_s - max(entered_s(t, self.settings), begun_s) for t in seen}
        there = [track for track in seen if reached(held[track.track_id], for_s)]
        longest_s = max(held.values())
        tracks = tuple(sorted(there or seen, key=lambda track: -track.score))
        summary = f"{names(tracks, self.settings, self.camera)}: seen for {format_duration(longest_s)}, "
        summary += f"score {tracks[0].score:.2f}"
        if there:
            return Progress(1.0, summary, tracks=tracks)
        return Progress(min(longest_s / for_s, 0.999), summary, f"{for_s - longest_s:.1f} s more", tracks)

    def _has_fired(self, progress: Progress) -> None:
        """It remembers no objects: its cooldown is all."""

    def _forget(self) -> None:
        """There is nothing to forget."""

    def _remember(self, quiet_until: datetime | None) -> RuleMemory:
        return RuleMemory(quiet_until=quiet_until)

    def _recall(self, memory: RuleMemory) -> None:
        """The cooldown is all."""
