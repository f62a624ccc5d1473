"""What of the objects of a camera a person should know: one watch a rule and camera. Pure: no clock, no bus."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from config.cameras import CameraSettings
from config.rules import Rule
from detector.rules.absence import AbsenceWatch
from detector.rules.count import CountWatch
from detector.rules.dwell import DwellWatch
from detector.rules.ground import GroundWatch
from detector.rules.line_cross import LineCrossWatch
from detector.rules.presence import PresenceWatch
from detector.rules.still import StillWatch
from detector.rules.watch import Progress, RuleWatch

__all__ = ["Progress", "RuleWatch", "open_rules", "rules_of", "watches"]

_KINDS: Mapping[str, type[RuleWatch]] = {
    "absence": AbsenceWatch,
    "count": CountWatch,
    "dwell": DwellWatch,
    "line-cross": LineCrossWatch,
    "long-time-still": StillWatch,
    "on-the-ground": GroundWatch,
    "presence": PresenceWatch,
}


def rules_of(rules: Mapping[str, Rule], camera: CameraSettings) -> dict[str, Rule]:
    """The site's rules and those of one camera alone; of two with one name the camera's holds."""
    return {**rules, **camera.rules}


def open_rules(rules: Mapping[str, Rule], camera: str, zones: Collection[str]) -> tuple[RuleWatch, ...]:
    """The rules that watch a camera, each with nothing seen yet.

    Args:
        rules: by name.
        camera: its name.
        zones: names of its zones (:attr:`detector.zones.ZoneMap.names`). A rule that counts in zones of which it has
            none is a rule of other cameras.
    """
    return tuple(_KINDS[rule.kind](name, rule, camera) for name, rule in rules.items() if watches(rule, camera, zones))


def watches(rule: Rule, camera: str, zones: Collection[str]) -> bool:
    """Whether a rule watches a camera that has these zones."""
    if rule.cameras and camera not in rule.cameras:
        return False
    return not rule.zones or any(zone in zones for zone in rule.zones)
