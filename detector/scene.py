"""What rules look at: the objects of a camera at one moment. Pure: times are seconds of the camera's own clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from broker.messages import Detection
from config.rules import RuleSettings

__all__ = ["Box", "Firing", "Scene", "Step", "Track"]

Box = tuple[float, float, float, float]
"""``(x1, y1, x2, y2)`` as fractions of the picture's width and height."""


@dataclass(frozen=True, slots=True)
class Step:
    """Where an object was at one moment.

    Attributes:
        at_s: capture time, seconds since 1970.
        box: fractions of the picture.
    """

    at_s: float
    box: Box

    @property
    def foot(self) -> tuple[float, float]:
        """Where it stands: the middle of its box's lower edge."""
        x1, _, x2, y2 = self.box
        return (x1 + x2) / 2, y2


@dataclass(frozen=True, slots=True)
class Track:
    """An object over time, confirmed.

    Attributes:
        track_id: unique over restarts and workers.
        label: what it is.
        score: median of its scores so far, 0 to 1.
        started_s: when it was first seen.
        path: where it was, oldest first, thinned out to what the longest rule needs; the last is where it is now.
        zones: since when it is in each of the zones in which it is.
        dwell_s: seconds that it has spent in each zone so far, now included.
        speed: fractions of the picture's height a second, over the last seconds.
        still_since_s: when it last moved; None while it moves.
    """

    track_id: str
    label: str
    score: float
    started_s: float
    path: tuple[Step, ...]
    zones: Mapping[str, float] = field(default_factory=dict)
    dwell_s: Mapping[str, float] = field(default_factory=dict)
    speed: float = 0.0
    still_since_s: float | None = None

    @property
    def box(self) -> Box:
        """Where it was seen last."""
        return self.path[-1].box

    @property
    def seen_s(self) -> float:
        """When it was seen last."""
        return self.path[-1].at_s


@dataclass(frozen=True, slots=True)
class Scene:
    """A camera at one moment.

    Attributes:
        camera: its name.
        at_s: capture time of the frame, seconds since 1970.
        local: the same moment on the clock by which people live there.
        width_px: of the frame.
        height_px: of the frame.
        tracks: the objects that are there; one that was not seen in this very frame has an older `seen_s`.
        detections: what was found in this very frame.
    """

    camera: str
    at_s: float
    local: datetime
    width_px: int
    height_px: int
    tracks: tuple[Track, ...] = ()
    detections: tuple[Detection, ...] = ()


@dataclass(frozen=True, slots=True)
class Firing:
    """A rule says that a person should know.

    Attributes:
        rule: the rule's name.
        settings: what it waits for; its `kind` is the kind of rule.
        camera: where.
        at_s: capture time of the frame that made it fire.
        summary: one sentence for a person: who, where, how long.
        tracks: the objects that made it fire, the most important first; none where nobody is there.
        detections: what to mark in the picture, the best first; may be empty.
    """

    rule: str
    settings: RuleSettings
    camera: str
    at_s: float
    summary: str
    tracks: tuple[Track, ...] = ()
    detections: tuple[Detection, ...] = ()
