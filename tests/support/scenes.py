"""Scenes for rules: who is where at which second, as a tracker would tell it, without pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from broker.messages import Detection
from config.cameras import Zone
from detector.scene import Box, Scene, Step, Track
from detector.zones import ZoneMap

__all__ = ["BEGIN", "HEIGHT_PX", "WIDTH_PX", "Actor", "Stage", "bending", "lying", "play", "sitting", "upright"]

BEGIN = datetime(2026, 1, 5, tzinfo=UTC)
"""A Monday, at midnight: second 0 of every scene."""
WIDTH_PX, HEIGHT_PX = 1280, 720
LOST_S = 2.0
"""Who is not seen for longer comes back as another track."""


def _box(x: float, foot: float, wide: float, high: float) -> Box:
    half = wide / 2 * HEIGHT_PX / WIDTH_PX
    return x - half, foot - high, x + half, foot


def upright(x: float, foot: float = 0.9, tall: float = 0.5) -> Box:
    """Somebody who stands.

    Args:
        x: of the feet, 0 to 1.
        foot: lower edge, 0 to 1.
        tall: height of the person upright, as a fraction of the picture's height.
    """
    return _box(x, foot, 0.4 * tall, tall)


def sitting(x: float, foot: float = 0.9, tall: float = 0.5) -> Box:
    """The same person on a chair."""
    return _box(x, foot, 0.5 * tall, 0.72 * tall)


def bending(x: float, foot: float = 0.9, tall: float = 0.5) -> Box:
    """The same person, bent over with the arms to the ground: wider than high."""
    return _box(x, foot, 0.72 * tall, 0.62 * tall)


def lying(x: float, foot: float = 0.9, tall: float = 0.5) -> Box:
    """The same person on the ground."""
    return _box(x, foot, 0.95 * tall, 0.28 * tall)


@dataclass(frozen=True)
class Actor:
    """Somebody who is there.

    Attributes:
        keys: seconds and boxes, in order; between two of them the box moves steadily. There from the first to the last.
        hidden: seconds from which until which nobody sees it.
        jitter: how much the box's edges tremble, as a part of its size.
    """

    keys: tuple[tuple[float, Box], ...]
    hidden: tuple[tuple[float, float], ...] = ()
    label: str = "person"
    score: float = 0.8
    jitter: float = 0.0

    def box(self, at_s: float, rng: np.random.Generator) -> Box | None:
        """Where it is seen."""
        times = [key[0] for key in self.keys]
        if not times[0] <= at_s <= times[-1] or any(start <= at_s < end for start, end in self.hidden):
            return None
        x1, y1, x2, y2 = (float(np.interp(at_s, times, [box[edge] for _, box in self.keys])) for edge in range(4))
        if self.jitter:
            dx1, dy1, dx2, dy2 = (rng.normal(0, self.jitter, 4) * np.tile([x2 - x1, y2 - y1], 2)).tolist()
            x1, y1, x2, y2 = x1 + dx1, y1 + dy1, x2 + dx2, y2 + dy2
        return max(0.0, x1), max(0.0, y1), min(1.0, x2), min(1.0, y2)


@dataclass
class _Seen:
    track_id: str
    started_s: float
    path: list[Step] = field(default_factory=list)
    zones: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """What is played.

    Attributes:
        actors: who is there.
        until_s: when it ends.
        fps: frames a second.
        begin_s: when it begins.
        gaps: seconds from which until which no frame comes.
        set_back: at which second the camera's clock is set back, and by how many seconds.
        zones: of the camera.
    """

    actors: tuple[Actor, ...]
    until_s: float
    fps: float = 5.0
    begin_s: float = 0.0
    gaps: tuple[tuple[float, float], ...] = ()
    set_back: tuple[float, float] = (float("inf"), 0.0)
    zones: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)


def play(stage: Stage) -> Iterator[tuple[float, Scene]]:
    """Every frame of it, with its second on the audience's clock."""
    rng = np.random.default_rng(1)
    zones = ZoneMap({name: Zone(points=tuple(points)) for name, points in stage.zones.items()})
    seen: dict[int, _Seen] = {}
    for k in range(round((stage.until_s - stage.begin_s) * stage.fps) + 1):
        play_s = round(stage.begin_s + k / stage.fps, 6)
        if any(start <= play_s < end for start, end in stage.gaps):
            continue
        shift_s = stage.set_back[1] if play_s >= stage.set_back[0] else 0.0
        at_s = BEGIN.timestamp() + play_s - shift_s
        for number, actor in enumerate(stage.actors):
            box = actor.box(play_s, rng)
            if box is not None:
                _track(seen, number, actor.label, Step(at_s, box), zones)
            elif number in seen and abs(at_s - seen[number].path[-1].at_s) > LOST_S:
                del seen[number]
        yield play_s, _scene(at_s, seen, stage.actors)


def _track(seen: dict[int, _Seen], number: int, label: str, step: Step, zones: ZoneMap) -> None:
    known = seen.get(number)
    if known is None or abs(step.at_s - known.path[-1].at_s) > LOST_S:
        known = seen[number] = _Seen(f"{label}-{number}-{step.at_s - BEGIN.timestamp():g}", step.at_s)
    known.path.append(step)
    known.zones = {zone: known.zones.get(zone, step.at_s) for zone in zones.of(label, step.foot)}


def _scene(at_s: float, seen: Mapping[int, _Seen], actors: Sequence[Actor]) -> Scene:
    tracks = tuple(
        Track(s.track_id, actors[n].label, actors[n].score, s.started_s, tuple(s.path), dict(s.zones))
        for n, s in seen.items()
    )
    found = tuple(
        Detection(label=t.label, score=t.score, box=t.box, box_px=(0, 0, 1, 1), track_id=t.track_id)
        for t in tracks
        if t.seen_s == at_s
    )
    return Scene("room", at_s, datetime.fromtimestamp(at_s, UTC), WIDTH_PX, HEIGHT_PX, tracks, found)
