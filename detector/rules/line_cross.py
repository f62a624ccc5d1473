"""It crosses a line."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

from broker.messages import RuleMemory
from config.rules import LineCrossRule
from detector.rules.objects import Kept, to_message
from detector.rules.watch import Progress, RuleWatch, names, seconds
from detector.scene import Scene, Step, Track

__all__ = ["LineCrossWatch"]

_CLEAR = 0.005
"""Picture heights from the line at which one is clearly on a side of it,"""
_CLEAR_PART = 0.05
"""and at least this part of one's own height: by so much boxes jitter."""
_AGAIN_S = 1.0
"""Who is back sooner than this has not crossed twice: feet were hidden for a moment, and the box ended at the knees."""
_WALKERS_MAX = 24

Point = tuple[float, float]


@dataclass(slots=True)
class _Walker:
    """One object and the line.

    Attributes:
        kept: its box when it was last clearly on one side, when it was last seen, and when it last crossed; None before
            it was clearly on a side.
        seen_s: how much of its path is done.
        foot: where it was then.
        through: how often it went through the line rightwards since it was clearly on a side, less leftwards.
    """

    kept: Kept | None = None
    seen_s: float = float("-inf")
    foot: Point | None = None
    through: int = 0


class LineCrossWatch(RuleWatch):
    """Fires when the foot of an object has crossed the line and is clearly beyond it.

    Where it goes between two frames is a straight line, so that who runs past at two frames a second is seen to cross.
    """

    settings: LineCrossRule
    _walkers: dict[str, _Walker]

    def _look(self, scene: Scene, begun_s: float) -> Progress | None:
        there = [track for track in scene.tracks if track.label == self.settings.label]
        self._walkers = {t.track_id: self._walkers.get(t.track_id) or _Walker() for t in there}
        line = _Line(self.settings, scene)
        # All of them, or a second one that crosses in the same frame would cross in the next.
        crossings = [(track, self._follow(self._walkers[track.track_id], track, line, begun_s)) for track in there]
        wanted = self.settings.direction
        crossed = [(t, way) for t, way in crossings if way and wanted in ("any", way) and self.counts(t)]
        if crossed:
            tracks = tuple(track for track, _ in crossed)
            summary = f"{names(tracks, self.settings, self.camera)} crossed the line of {self.name} {crossed[0][1]}"
            return Progress(1.0, summary, tracks=tracks)
        near = min(((line.distance(t.path[-1]), t) for t in there if self.counts(t)), key=lambda n: n[0], default=None)
        if near is None:
            return None
        missing = f"{near[0]:.2f} picture heights to the line"
        who = names((near[1],), self.settings, self.camera)
        return Progress(max(0.0, 0.999 - near[0]), f"{who} came near the line of {self.name}", missing, (near[1],))

    def _follow(self, walker: _Walker, track: Track, line: _Line, begun_s: float) -> str:
        """Go along the new part of an object's path; which way it crossed last, empty when it did not."""
        way = ""
        for step in track.path:
            if step.at_s > max(walker.seen_s, begun_s):
                way = _take(walker, step, line) or way
                walker.seen_s = step.at_s
        return way

    def _has_fired(self, progress: Progress) -> None:
        """Who has crossed is beyond the line: that is remembered in any case."""

    def _forget(self) -> None:
        self._walkers = {}

    def _remember(self, quiet_until: datetime | None) -> RuleMemory:
        known = [(n, w.kept) for n, w in self._walkers.items() if w.kept is not None]
        known.sort(key=lambda entry: -entry[1].seen_s)
        return RuleMemory(quiet_until=quiet_until, objects={n: to_message(kept) for n, kept in known[:_WALKERS_MAX]})

    def _recall(self, memory: RuleMemory) -> None:
        for name, known in memory.objects.items():
            seen_s = seconds(known.seen_at)
            kept = Kept(known.box, seen_s, None if known.since is None else seconds(known.since))
            self._walkers[name] = _Walker(kept, seen_s, None)


class _Line:
    """The line in a picture of some shape; lengths are in picture heights, so that no direction is longer.

    Args:
        settings: where it is.
        scene: how large the picture is.
    """

    def __init__(self, settings: LineCrossRule, scene: Scene) -> None:
        self._aspect = scene.width_px / scene.height_px
        (x1, y1), (x2, y2) = settings.line
        self._start = (x1 * self._aspect, y1)
        self._along = ((x2 - x1) * self._aspect, y2 - y1)
        self._length = math.hypot(*self._along)

    def foot(self, step: Step) -> Point:
        """Where an object stands."""
        x, y = step.foot
        return x * self._aspect, y

    def side(self, point: Point) -> float:
        """How far right of the line a point is, for who walks from its first end to its second; less than 0: left."""
        x, y = point[0] - self._start[0], point[1] - self._start[1]
        return (self._along[0] * y - self._along[1] * x) / self._length

    def through(self, before: Point, after: Point) -> int:
        """Whether a step goes through the line: 1 rightwards, -1 leftwards, 0 not, or past one of its ends."""
        one, other = self.side(before), self.side(after)
        if (one >= 0) == (other >= 0):
            return 0
        part = one / (one - other)
        at = (before[0] + part * (after[0] - before[0]), before[1] + part * (after[1] - before[1]))
        if not 0 <= self._part(at) <= 1:
            return 0
        return 1 if other >= 0 else -1

    def distance(self, step: Step) -> float:
        """From where an object stands to the line."""
        x, y = self.foot(step)
        part = min(1.0, max(0.0, self._part((x, y))))
        return math.hypot(x - self._start[0] - part * self._along[0], y - self._start[1] - part * self._along[1])

    def _part(self, point: Point) -> float:
        """How far along the line a point is: 0 at its first end, 1 at its second."""
        x, y = point[0] - self._start[0], point[1] - self._start[1]
        return (x * self._along[0] + y * self._along[1]) / self._length**2


def _take(walker: _Walker, step: Step, line: _Line) -> str:
    """One step; which way it crossed with it, empty when it did not."""
    foot, kept = line.foot(step), walker.kept
    before = walker.foot
    if before is None and kept is not None:
        before = line.foot(Step(kept.seen_s, kept.box))
    if before is not None:
        walker.through += line.through(before, foot)
    walker.foot = foot
    side = line.side(foot)
    height = step.box[3] - step.box[1]
    if abs(side) < max(_CLEAR, _CLEAR_PART * height):
        if kept is not None:
            kept.seen_s = step.at_s
        return ""
    through, walker.through = walker.through, 0
    if kept is None:
        walker.kept = Kept(step.box, step.at_s)
        return ""
    changed = (line.side(line.foot(Step(0.0, kept.box))) >= 0) != (side >= 0)
    kept.box, kept.seen_s = step.box, step.at_s
    if not changed or through == 0:
        return ""
    before_s, kept.since_s = kept.since_s, step.at_s
    if before_s is not None and step.at_s - before_s < _AGAIN_S:
        return ""
    return "rightwards" if side >= 0 else "leftwards"
