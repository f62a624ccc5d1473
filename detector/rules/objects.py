"""Rules about one object over time, which may be out of sight for a moment and come back as another track."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Container
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from broker.messages import KeptObject, RuleMemory
from config.durations import format_duration
from detector.rules.watch import Progress, RuleWatch, moment, reached, seconds
from detector.scene import Box, Scene, Track

__all__ = ["Kept", "ObjectWatch", "distance_px", "size_px", "to_message"]

_KEPT_MAX = 24
"""Objects that the next worker is told of, those seen last: a retained message must not grow with a crowd."""


@dataclass(slots=True)
class Kept:
    """What a rule knows of one object.

    Attributes:
        box: by which it is measured.
        seen_s: when it was last seen.
        since_s: since when what the rule waits for holds of it; None when it does not.
        broken_s: since when that does not hold any more, which may be noise.
        standing: its height when it stands upright, as a fraction of the picture's height; 0: not known.
        fired: the rule has fired for it.
    """

    box: Box
    seen_s: float
    since_s: float | None = None
    broken_s: float | None = None
    standing: float = 0.0
    fired: bool = False

    def breaks(self, at_s: float, patience_s: float) -> bool:
        """It does not hold now. After `patience_s` it no longer counts as noise, and this returns True."""
        if self.broken_s is None:
            self.broken_s = at_s
        return reached(at_s - self.broken_s, patience_s)

    def end(self) -> None:
        """It does not hold any more."""
        self.since_s = self.broken_s = None
        self.fired = False


class ObjectWatch(RuleWatch):
    """Fires when something has held of an object for a time; for all of which that is so at once."""

    gone_s: ClassVar[float] = 0.0
    """Seconds for which an object is remembered that is no longer there."""
    _objects: dict[str, Kept]

    def _look(self, scene: Scene, begun_s: float) -> Progress | None:
        there = {track.track_id for track in scene.tracks}
        self._drop_gone(scene.at_s, there)
        waiting: list[tuple[float, Track]] = []
        for track in scene.tracks:
            if track.label != self.settings.label or track.seen_s < scene.at_s:
                continue
            kept = self._meet(track, there, scene)
            self._measure(kept, track, scene)
            kept.seen_s = scene.at_s
            if kept.since_s is not None and kept.broken_s is None and not kept.fired and self.counts(track):
                waiting.append((scene.at_s - max(kept.since_s, begun_s), track))
        return self._progress(waiting) if waiting else None

    def _progress(self, waiting: list[tuple[float, Track]]) -> Progress:
        waiting.sort(key=lambda entry: -entry[0])
        longest_s, first = waiting[0]
        ready = tuple(track for held_s, track in waiting if reached(held_s, self._for_s))
        summary = self._say(ready or (first,), format_duration(longest_s))
        if ready:
            return Progress(1.0, summary, tracks=ready)
        missing = f"{self._for_s - longest_s:.1f} s more"
        return Progress(min(longest_s / self._for_s, 0.999), summary, missing, (first,))

    def _drop_gone(self, at_s: float, there: Container[str]) -> None:
        for name, kept in list(self._objects.items()):
            if name not in there and at_s - kept.seen_s > self.gone_s:
                del self._objects[name]

    def _meet(self, track: Track, there: Container[str], scene: Scene) -> Kept:
        """What is known of an object: as itself, or as one that is not seen any more and was where it is now."""
        kept = self._objects.get(track.track_id)
        if kept is not None:
            return kept
        for name, other in self._objects.items():
            if name not in there and self._is_same(other, track, scene):
                self._objects[track.track_id] = self._objects.pop(name)
                return other
        kept = self._objects[track.track_id] = Kept(track.box, track.seen_s)
        return kept

    @property
    @abstractmethod
    def _for_s(self) -> float:
        """Seconds for which it must hold."""

    @abstractmethod
    def _measure(self, kept: Kept, track: Track, scene: Scene) -> None:
        """Bring what is known of an object up to this frame, in which it is seen."""

    def _is_same(self, kept: Kept, track: Track, scene: Scene) -> bool:
        """Whether a new track is an object that went out of sight: no further away than the longer of them is long."""
        reach = max(*size_px(kept.box, scene), *size_px(track.box, scene))
        return distance_px(kept.box, track.box, scene) <= reach

    @abstractmethod
    def _say(self, tracks: tuple[Track, ...], held: str) -> str:
        """A sentence for a person.

        Args:
            tracks: the objects that it is about.
            held: for how long it has held of the first.
        """

    def _has_fired(self, progress: Progress) -> None:
        for track in progress.tracks:
            self._objects[track.track_id].fired = True

    def _forget(self) -> None:
        self._objects = {}

    def _remember(self, quiet_until: datetime | None) -> RuleMemory:
        telling = [(n, k) for n, k in self._objects.items() if k.since_s is not None or k.standing]
        telling.sort(key=lambda entry: -entry[1].seen_s)
        return RuleMemory(quiet_until=quiet_until, objects={n: to_message(k) for n, k in telling[:_KEPT_MAX]})

    def _recall(self, memory: RuleMemory) -> None:
        for name, known in memory.objects.items():
            since_s = None if known.since is None else seconds(known.since)
            self._objects[name] = Kept(known.box, seconds(known.seen_at), since_s, None, known.standing, known.fired)


def to_message(kept: Kept) -> KeptObject:
    """As the next worker is told."""
    return KeptObject(
        box=kept.box,
        seen_at=moment(kept.seen_s),
        since=None if kept.since_s is None else moment(kept.since_s),
        standing=min(kept.standing, 1.0),
        fired=kept.fired,
    )


def size_px(box: Box, scene: Scene) -> tuple[float, float]:
    """Width and height of a box in pixels."""
    x1, y1, x2, y2 = box
    return (x2 - x1) * scene.width_px, (y2 - y1) * scene.height_px


def distance_px(one: Box, other: Box, scene: Scene) -> float:
    """Between the middles of two boxes, in pixels."""
    x = (one[0] + one[2] - other[0] - other[2]) / 2 * scene.width_px
    y = (one[1] + one[3] - other[1] - other[3]) / 2 * scene.height_px
    return math.hypot(x, y)
