"""One object over time: where it went, in which zones it is, how fast, whether it stands still. Pure."""

from __future__ import annotations

import math
from collections import deque
from datetime import UTC, datetime
from statistics import median

from broker.messages import OpenTrack
from detector.scene import Box, Step, Track
from detector.zones import ZoneMap

__all__ = ["WatchedObject"]

_SCORES = 25
"""Scores of which the median is taken: a few seconds, so that a good look early on does not count for ever."""
_PATH_MAX = 256
"""Places that are remembered of an object; older ones are thinned out."""
_ZONE_LEFT_S = 1.0
"""An object that is out of a zone for less has not left it: its foot flickers at the zone's border."""
_SPEED_S = 2.0
"""Seconds over which speed is taken: a box trembles by some pixels from frame to frame."""
_VELOCITY_S = 0.5
"""Seconds over which is measured where an object goes, when it is looked for."""
_GOES_ON_S = 1.0
"""Seconds for which an object that is not seen is thought to go on as it did."""
_NEAR = 0.3
"""Shares of its own size that an object may be from where it should be: all that one that stands still may be,"""
_PACE = 0.8
"""and so much more for each second for one that moves: a person walks 0.8 of its own height in a second;"""
_NEAR_MAX = 1.5
"""but never more than this."""
_SIZE_MIN = 0.6
"""An object has not become smaller than this part of its size, nor larger by as much."""
_MOVED = 0.25
"""Share of its own size by which an object must go to have moved; below that boxes tremble."""


class WatchedObject:
    """What is known of one object.

    Attributes:
        track_id: unique over restarts and workers.
        label: what it is.
        started_s: when it was seen first.
        confirmed: it counts.
        sightings: frames in which it was seen.
        misses: frames since, in which it was not.
        sought: there was a pause, or another worker, and it was not seen since.
        aspect: the picture's width over its height, in pixels.
        unwatched: so long a pause that nobody knows when it left.

    Args:
        track_id: unique over restarts and workers.
        label: what it is.
        zones: of its camera.
        aspect: the picture's width over its height, in pixels.
        still_s: seconds without moving after which it stands still.
        step: where it was seen first.
        score: with which score.
    """

    def __init__(
        self, *, track_id: str, label: str, zones: ZoneMap, aspect: float, still_s: float, step: Step, score: float
    ) -> None:
        self.track_id = track_id
        self.label = label
        self.started_s = step.at_s
        self.confirmed = False
        self.misses = 0
        self.sightings = 1
        self.sought = False
        self.unwatched = False
        self._zone_map = zones
        self.aspect = aspect
        self._still_s = still_s
        self._scores = deque([score], maxlen=_SCORES)
        self._path = [step]
        self._entered: dict[str, float] = {}
        self._inside_s: dict[str, float] = {}
        self._before_s: dict[str, float] = {}
        self._anchor = _middle(step.box)
        self._anchor_s = step.at_s
        self._still = False
        self._velocity = (0.0, 0.0)
        self._look_at_zones(step)

    @classmethod
    def recalled(cls, known: OpenTrack, zones: ZoneMap, *, aspect: float, still_s: float) -> WatchedObject:
        """The object that another worker, or this one in an earlier life, has watched."""
        seen_s = known.seen_at.timestamp()
        step = Step(seen_s, known.box)
        watched = cls(
            track_id=known.track_id,
            label=known.label,
            zones=zones,
            aspect=aspect,
            still_s=still_s,
            step=step,
            score=known.score,
        )
        watched.started_s = min(known.started_at.timestamp(), seen_s)
        watched.confirmed = True
        watched._entered = {zone: min(at.timestamp(), seen_s) for zone, at in known.zones.items()}
        watched._inside_s = dict.fromkeys(known.zones, seen_s)
        watched._before_s = dict(known.dwell_s)
        watched._velocity = known.velocity
        if known.still_since is not None:
            watched._anchor_s = min(known.still_since.timestamp(), seen_s)
            watched._still = True
        return watched

    @property
    def box(self) -> Box:
        """Where it was seen last."""
        return self._path[-1].box

    @property
    def seen_s(self) -> float:
        """When it was seen last."""
        return self._path[-1].at_s

    @property
    def still(self) -> bool:
        """It stands still."""
        return self._still

    def see(self, step: Step, score: float) -> None:
        """It is seen once more.

        Args:
            step: where, later than the last one.
            score: with which score.
        """
        self.misses = 0
        self.sought = self.unwatched = False
        self.sightings += 1
        self._scores.append(score)
        self._path.append(step)
        if len(self._path) > _PATH_MAX:
            # The older half gets half as dense, again and again, so that the recent past is the finest.
            half = _PATH_MAX // 2
            self._path[1:half] = self._path[2:half:2]
        self._look_at_zones(step)
        self._look_whether_it_moves(step)
        self._look_where_it_goes()

    def _look_at_zones(self, step: Step) -> None:
        inside = self._zone_map.of(self.label, step.foot)
        for zone in inside:
            self._entered.setdefault(zone, step.at_s)
            self._inside_s[zone] = step.at_s
        for zone in [zone for zone in self._entered if step.at_s - self._inside_s[zone] >= _ZONE_LEFT_S]:
            spent_s = self._inside_s.pop(zone) - self._entered.pop(zone)
            self._before_s[zone] = self._before_s.get(zone, 0.0) + spent_s

    def _look_whether_it_moves(self, step: Step) -> None:
        recent = [_middle(seen.box) for seen in self._path[-3:]]
        here = (median(x for x, _ in recent), median(y for _, y in recent))
        if self._distance(here, self._anchor) > _MOVED * self._size(step.box):
            self._anchor, self._anchor_s = here, step.at_s
            self._still = False
        elif step.at_s - self._anchor_s >= self._still_s:
            self._still = True

    def _distance(self, first: tuple[float, float], second: tuple[float, float]) -> float:
        """In heights of the picture."""
        return math.hypot((first[0] - second[0]) * self.aspect, first[1] - second[1])

    def _speed(self) -> float:
        last = self._path[-1]
        since = self._path[-2] if len(self._path) > 1 else last
        for step in reversed(self._path[:-2]):
            if last.at_s - step.at_s > _SPEED_S:
                break
            since = step
        if since is last:
            return 0.0
        return self._distance(last.foot, since.foot) / (last.at_s - since.at_s)

    def distance(self, step: Step) -> float:
        """How far something is from where this object could be by then: 0 is where it should be, 1 is too far.

        Args:
            step: where something of this label is seen, later than this object.
        """
        size, other = self._size(self.box), self._size(step.box)
        if not size * _SIZE_MIN <= other <= size / _SIZE_MIN:
            return math.inf
        passed_s = step.at_s - self.seen_s
        x, y = _middle(self.box)
        for_s = 0.0 if self._still else min(_GOES_ON_S, passed_s)
        expected = (x + self._velocity[0] * for_s, y + self._velocity[1] * for_s)
        reach = _NEAR if self._still else min(_NEAR_MAX, _NEAR + _PACE * passed_s)
        return self._distance(expected, _middle(step.box)) / (size * reach)

    def _size(self, box: Box) -> float:
        """The longer side, in heights of the picture."""
        x1, y1, x2, y2 = box
        return max((x2 - x1) * self.aspect, y2 - y1)

    def _look_where_it_goes(self) -> None:
        last = self._path[-1]
        since = next(
            (step for step in reversed(self._path[:-1]) if last.at_s - step.at_s >= _VELOCITY_S), self._path[0]
        )
        for_s = last.at_s - since.at_s
        if for_s > 0:
            (x1, y1), (x2, y2) = _middle(since.box), _middle(last.box)
            self._velocity = ((x2 - x1) / for_s, (y2 - y1) / for_s)

    def _dwell_s(self) -> dict[str, float]:
        dwell_s = dict(self._before_s)
        for zone, entered_s in self._entered.items():
            dwell_s[zone] = dwell_s.get(zone, 0.0) + self._inside_s[zone] - entered_s
        return dwell_s

    def track(self) -> Track:
        """As rules and events see it."""
        return Track(
            track_id=self.track_id,
            label=self.label,
            score=median(self._scores),
            started_s=self.started_s,
            path=tuple(self._path),
            zones=dict(self._entered),
            dwell_s=self._dwell_s(),
            speed=self._speed(),
            still_since_s=self._anchor_s if self._still else None,
        )

    def open_track(self) -> OpenTrack:
        """As the next worker must know it."""
        return OpenTrack(
            track_id=self.track_id,
            label=self.label,
            started_at=moment(self.started_s),
            seen_at=moment(self.seen_s),
            score=median(self._scores),
            box=self.box,
            velocity=(round(self._velocity[0], 4), round(self._velocity[1], 4)),
            still_since=moment(self._anchor_s) if self._still else None,
            zones={zone: moment(entered_s) for zone, entered_s in self._entered.items()},
            dwell_s={zone: round(spent_s, 3) for zone, spent_s in self._before_s.items()},
        )


def _middle(box: Box) -> tuple[float, float]:
    x1, y1, x2, y2 = box
    return (x1 + x2) / 2, (y1 + y2) / 2


def moment(at_s: float) -> datetime:
    """Seconds since 1970 as a moment in UTC."""
    return datetime.fromtimestamp(at_s, UTC)
