"""What all rules have in common: hours, cooldown, a clock that is set back, and what the next worker must know."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from broker.messages import RuleMemory
from config.rules import Hours, RuleSettings
from detector.scene import Firing, Scene, Track

__all__ = ["Progress", "RuleWatch", "entered_s", "is_in_zones", "moment", "names", "reached", "seconds"]

_BACKWARDS_S = 1.0
"""Frames of a camera come in order; a capture time that is further back than this is a clock that was set."""
_ROUNDING_S = 0.001
"""Capture times are stored to the microsecond, and a sum of tenths is not a second exactly."""
_LONG_AGO_S = float("-inf")


@dataclass(frozen=True, slots=True)
class Progress:
    """How near a rule is to firing.

    Attributes:
        part: of what it waits for, 0 to 1; it is ready at 1.
        summary: one sentence for a person: what is there.
        missing: what is still missing, for a person; empty when nothing is.
        tracks: the objects that it is about, the most important first.
    """

    part: float
    summary: str
    missing: str = ""
    tracks: tuple[Track, ...] = ()


class RuleWatch(ABC):
    """One rule for one camera.

    It fires on a frame that shows why, so that the evidence does too. All its times are capture times: the camera's
    seconds count, however late its frames come. When the camera's clock is set back it starts over: one escalation too
    many is better than an hour of silence. What was before its hours does not count.

    Args:
        name: the rule's name.
        settings: what it waits for.
        camera: where.

    Attributes:
        progress: how near it was at the last frame; None when nothing is there that it waits for, or in other hours.
    """

    def __init__(self, name: str, settings: RuleSettings, camera: str) -> None:
        self.name = name
        self.settings = settings
        self.camera = camera
        self.progress: Progress | None = None
        self._last_s = _LONG_AGO_S
        self._quiet_until_s = _LONG_AGO_S
        self._forget()

    def look(self, scene: Scene) -> Firing | None:
        """Look at one frame; frames come in the order in which they were captured.

        Returns:
            The firing, when this frame makes the rule fire.
        """
        if scene.at_s < self._last_s - _BACKWARDS_S:
            self._quiet_until_s = _LONG_AGO_S
            self._forget()
        self._last_s = scene.at_s
        begun_s = _begun_s(self.settings.hours, scene)
        if begun_s is None:
            self._forget()
            self.progress = None
            return None
        self.progress = self._look(scene, begun_s)
        if self.progress is None or self.progress.part < 1 or scene.at_s < self._quiet_until_s:
            return None
        return self._fire(scene, self.progress)

    def memory(self) -> RuleMemory:
        """What the next worker of the camera must know."""
        quiet = None if self._quiet_until_s == _LONG_AGO_S else moment(self._quiet_until_s)
        return self._remember(quiet)

    def recall(self, memory: RuleMemory) -> None:
        """Go on where another worker has left off; before the first frame."""
        if memory.quiet_until is not None:
            self._quiet_until_s = seconds(memory.quiet_until)
        known = [self._quiet_until_s - self.settings.cooldown_s, *(seconds(k.seen_at) for k in memory.objects.values())]
        if memory.watched_until is not None:
            known.append(seconds(memory.watched_until))
        # The latest moment of which the other worker knew: a frame from long before it is from a clock that was set.
        self._last_s = max(known)
        self._recall(memory)

    def _fire(self, scene: Scene, progress: Progress) -> Firing:
        self._quiet_until_s = scene.at_s + self.settings.cooldown_s
        self._has_fired(progress)
        shown = {track.track_id for track in progress.tracks}
        found = sorted((d for d in scene.detections if d.track_id in shown), key=lambda d: -d.score)
        return Firing(
            self.name, self.settings, self.camera, scene.at_s, progress.summary, progress.tracks, tuple(found)
        )

    def counts(self, track: Track) -> bool:
        """Whether an object is one that the rule is about, as it is now."""
        settings = self.settings
        return track.label == settings.label and track.score >= settings.min_score and is_in_zones(track, settings)

    @abstractmethod
    def _look(self, scene: Scene, begun_s: float) -> Progress | None:
        """Look at one frame within the hours.

        Args:
            scene: what is there.
            begun_s: when the hours began.
        """

    @abstractmethod
    def _has_fired(self, progress: Progress) -> None:
        """Remember what it has fired for."""

    @abstractmethod
    def _forget(self) -> None:
        """Start over; the first time when it is made."""

    @abstractmethod
    def _remember(self, quiet_until: datetime | None) -> RuleMemory:
        """What it knows besides its cooldown."""

    @abstractmethod
    def _recall(self, memory: RuleMemory) -> None:
        """Know that again."""


def _begun_s(hours: tuple[Hours, ...], scene: Scene) -> float | None:
    """When the hours began that hold now, in seconds since 1970; None when none do, long ago when all do."""
    if not hours:
        return _LONG_AGO_S
    running = [since for entry in hours if (since := entry.running(scene.local)) is not None]
    return scene.at_s - max(running).total_seconds() if running else None


def is_in_zones(track: Track, settings: RuleSettings) -> bool:
    """Whether an object is where it counts."""
    return not settings.zones or any(zone in track.zones for zone in settings.zones)


def entered_s(track: Track, settings: RuleSettings) -> float:
    """Since when it is where it counts."""
    return min((track.zones[zone] for zone in settings.zones if zone in track.zones), default=track.started_s)


def names(tracks: Iterable[Track], settings: RuleSettings, camera: str) -> str:
    """Who is where, for a sentence: ``person and 2 more in the drive on yard``."""
    counted = list(tracks)
    zones = sorted({zone for track in counted for zone in track.zones if zone in settings.zones})
    others = f" and {len(counted) - 1} more" if len(counted) > 1 else ""
    place = f" in {', '.join(zones)}" if zones else ""
    return f"{settings.label}{others}{place} on {camera}"


def reached(elapsed_s: float, for_s: float) -> bool:
    """Whether a time is over."""
    return elapsed_s + _ROUNDING_S >= for_s


def moment(at_s: float) -> datetime:
    """Seconds since 1970 as a time."""
    return datetime.fromtimestamp(at_s, UTC)


def seconds(at: datetime) -> float:
    """A time as seconds since 1970."""
    return at.timestamp()
