"""What somebody wants of the journal: by time, camera, rule and what else there is a column for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from bridge.sink import Table

__all__ = ["EscalationFilter", "EventFilter", "Filter"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What both kinds have in common; what is None does not matter.

    Attributes:
        since: at or after this time, in the journal's form (see `utc_text`).
        until: before this time.
        camera: only of this camera.
        label: only of this label.
        zone: only where something is in this zone.
    """

    table: ClassVar[Table]
    since: str | None = None
    until: str | None = None
    camera: str | None = None
    label: str | None = None
    zone: str | None = None

    def conditions(self) -> Mapping[str, str | int]:
        """Conditions in SQL, each with one value."""
        given = {condition: value for condition, value in self._all().items() if value is not None}
        return given if self.zone is None else {**given, "instr(zones, ?)": f",{self.zone},"}

    def _all(self) -> dict[str, str | int | None]:
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class EscalationFilter(Filter):
    """Which escalations.

    Attributes:
        rule: only of this rule.
        severity: only of this severity.
        drill: only fake alarms, or only genuine ones.
    """

    table: ClassVar[Table] = "escalation"
    rule: str | None = None
    severity: str | None = None
    drill: bool | None = None

    def _all(self) -> dict[str, str | int | None]:
        return {
            "raised_at >= ?": self.since,
            "raised_at < ?": self.until,
            "camera = ?": self.camera,
            "rule = ?": self.rule,
            "severity = ?": self.severity,
            "label = ?": self.label,
            "drill = ?": self.drill,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter(Filter):
    """Which events.

    Attributes:
        stream: only of this line of the contract, such as ``camera_motion``.
    """

    table: ClassVar[Table] = "event"
    stream: str | None = None

    def _all(self) -> dict[str, str | int | None]:
        return {
            "at >= ?": self.since,
            "at < ?": self.until,
            "camera = ?": self.camera,
            "stream = ?": self.stream,
            "label = ?": self.label,
        }
