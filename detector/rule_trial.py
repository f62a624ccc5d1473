"""Rules over a recording: when each would have fired, and why one did not. Pure but for the file it reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from config.durations import format_duration
from config.rules import Rule
from detector.rules import Progress, RuleWatch, open_rules
from detector.scene import Firing, Scene
from detector.zones import ZoneMap

__all__ = ["Fired", "RuleResult", "TrialResult", "try_rules"]


class Fired(msgspec.Struct, frozen=True, kw_only=True):
    """A rule would have fired.

    Attributes:
        at: local time of the frame.
        at_s: seconds since the recording began.
        summary: why, for a person.
    """

    at: datetime
    at_s: float
    rule: str
    kind: str
    severity: str
    summary: str
    tracks: tuple[str, ...]
    zones: tuple[str, ...]


class RuleResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one rule.

    Attributes:
        fired: how often.
        reason: why it did not fire, for a person; empty when it did.
        nearest: how near it came at most, 0 to 1.
        nearest_s: when, in seconds since the recording began.
    """

    rule: str
    kind: str
    fired: int
    reason: str = ""
    nearest: float = 0.0
    nearest_s: float | None = None


class TrialResult(msgspec.Struct, frozen=True, kw_only=True):
    """What rules say of a recording.

    Attributes:
        length_s: from its first frame to its last.
        labels: objects by label.
    """

    camera: str
    began: datetime
    length_s: float
    frames: int
    labels: dict[str, int]
    firings: tuple[Fired, ...]
    rules: tuple[RuleResult, ...]


@dataclass(slots=True)
class _Seen:
    """What was there that could have counted for a rule; by label."""

    scores: dict[str, float] = field(default_factory=dict)
    objects: dict[str, set[str]] = field(default_factory=dict)
    zones: dict[str, set[str]] = field(default_factory=dict)

    def note(self, scene: Scene) -> None:
        """One more frame."""
        for track in scene.tracks:
            self.objects.setdefault(track.label, set()).add(track.track_id)
            self.scores[track.label] = max(self.scores.get(track.label, 0.0), track.score)
            self.zones.setdefault(track.label, set()).update(track.zones)


@dataclass(slots=True)
class _Tried:
    """One rule, and how it goes."""

    watch: RuleWatch
    running: bool = False
    nearest: Progress | None = None
    nearest_s: float = 0.0

    def look(self, scene: Scene, at_s: float) -> Fired | None:
        """One more frame, so many seconds after the first."""
        watch = self.watch
        hours = watch.settings.hours
        self.running = self.running or not hours or any(entry.running(scene.local) is not None for entry in hours)
        firing = watch.look(scene)
        progress = watch.progress
        if progress is not None and (self.nearest is None or progress.part > self.nearest.part):
            self.nearest, self.nearest_s = progress, at_s
        return None if firing is None else _fired(firing, scene, at_s)


def try_rules(rules: Mapping[str, Rule], camera: str, zones: ZoneMap, scenes: Sequence[Scene]) -> TrialResult:
    """Run rules over a recording.

    Args:
        rules: by name.
        camera: whose recording it is.
        zones: of the camera.
        scenes: in order; at least one.
    """
    tried = {watch.name: _Tried(watch) for watch in open_rules(rules, camera, zones.names)}
    seen, firings, begin_s = _Seen(), list[Fired](), scenes[0].at_s
    for scene in scenes:
        seen.note(scene)
        firings += filter(None, [one.look(scene, scene.at_s - begin_s) for one in tried.values()])
    counts = Counter(firing.rule for firing in firings)
    results = []
    for name, rule in rules.items():
        one = tried.get(name)
        reason = "" if counts[name] else _obstacle(rule, one, seen) if one else _elsewhere(rule, camera)
        results.append(_result(name, rule, counts[name], reason, one))
    return TrialResult(
        camera=camera,
        began=scenes[0].local,
        length_s=round(scenes[-1].at_s - begin_s, 3),
        frames=len(scenes),
        labels={label: len(objects) for label, objects in sorted(seen.objects.items())},
        firings=tuple(firings),
        rules=tuple(results),
    )


def _fired(firing: Firing, scene: Scene, at_s: float) -> Fired:
    return Fired(
        at=scene.local,
        at_s=round(at_s, 3),
        rule=firing.rule,
        kind=firing.settings.kind,
        severity=firing.settings.severity,
        summary=firing.summary,
        tracks=tuple(track.track_id for track in firing.tracks),
        zones=tuple(dict.fromkeys(zone for track in firing.tracks for zone in track.zones)),
    )


def _result(name: str, rule: Rule, fired: int, reason: str, tried: _Tried | None) -> RuleResult:
    if fired:
        return RuleResult(rule=name, kind=rule.kind, fired=fired, nearest=1.0)
    progress = tried.nearest if tried is not None else None
    if reason or tried is None or progress is None:
        return RuleResult(rule=name, kind=rule.kind, fired=0, reason=reason or _never(rule))
    return RuleResult(
        rule=name,
        kind=rule.kind,
        fired=0,
        reason=f"after {format_duration(tried.nearest_s)}: {progress.summary}; missing: {progress.missing}",
        nearest=round(progress.part, 3),
        nearest_s=round(tried.nearest_s, 3),
    )


def _never(rule: Rule) -> str:
    match rule.kind:
        case "absence":
            return f"a {rule.label} that counts was there in every frame"
        case "on-the-ground":
            return f"no {rule.label} had a box {rule.aspect_min:g} times as wide as high, low, and within the picture"
        case "count":
            wanted = f"{rule.at_least} or more" if rule.at_least is not None else f"{rule.at_most} or fewer"
            return f"there were never {wanted}"
        case _:
            return f"no {rule.label} counted in any frame"


def _elsewhere(rule: Rule, camera: str) -> str:
    if rule.cameras and camera not in rule.cameras:
        return f"it does not watch this camera, but {', '.join(rule.cameras)}"
    return f"this camera has none of its zones: {', '.join(rule.zones)}"


def _obstacle(rule: Rule, tried: _Tried, seen: _Seen) -> str:
    """Why a rule that watches the camera could not fire at all; empty when it could."""
    if not tried.running:
        return "the recording is not within its hours"
    if rule.kind in ("absence", "count"):
        return ""
    if rule.label not in seen.objects:
        return f"no {rule.label} was there, only {', '.join(sorted(seen.objects)) or 'nothing'}"
    if seen.scores[rule.label] < rule.min_score:
        return f"the best score of a {rule.label} is {seen.scores[rule.label]:.2f}, less than its {rule.min_score:g}"
    if rule.zones and not seen.zones[rule.label] & set(rule.zones):
        return f"no {rule.label} was in {' or '.join(rule.zones)}"
    return ""
