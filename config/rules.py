"""The settings of zones and rules: where objects count, and what of them a person should know."""

from __future__ import annotations

from datetime import datetime, time, timedelta
from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from config.names import Name
from config.section import DAYS, Day, Fraction, Point, Section

__all__ = [
    "AbsenceRule",
    "CountRule",
    "DwellRule",
    "Hours",
    "LineCrossRule",
    "OnTheGroundRule",
    "PresenceRule",
    "Rule",
    "RuleSettings",
    "Severity",
    "StillRule",
]

Severity = Literal["info", "warning", "critical"]


class Hours(Section):
    """Some hours of some days, on the clock of the machine that asks the rules."""

    start: time
    """When they begin, ``"22:00"``."""
    end: time
    """When they end; at or before `start` it is on the next day."""
    days: Annotated[tuple[Day, ...], Field(min_length=1)] = DAYS
    """Days on which they begin."""

    def running(self, local: datetime) -> timedelta | None:
        """For how long they have been running, by the clock on the wall; None while they are not.

        Args:
            local: what that clock shows.
        """
        today = local.replace(hour=0, minute=0, second=0, microsecond=0)
        # What began yesterday may last until today.
        for day in (today, today - timedelta(days=1)):
            begins = datetime.combine(day, self.start, local.tzinfo)
            ends = datetime.combine(day if self.end > self.start else day + timedelta(days=1), self.end, local.tzinfo)
            if begins <= local < ends and DAYS[day.weekday()] in self.days:
                return local - begins
        return None


class RuleSettings(Section):
    """What every rule has."""

    kind: str
    """The kind of rule."""
    label: str = "person"
    """The label that counts."""
    min_score: Fraction = 0.5
    """The least median score of an object that counts. HOG and YOLOX scores are both on 0 to 1, but not the same
    measure."""
    zones: tuple[Name, ...] = ()
    """Zones of the camera in which objects count; empty means the whole picture."""
    cameras: tuple[Name, ...] = ()
    """Cameras it watches; empty means all."""
    hours: tuple[Hours, ...] = ()
    """When it watches; empty means always."""
    cooldown_s: float = Field(default=10.0, ge=0, le=86_400)
    """Seconds after an escalation in which the same rule stays quiet for the same camera."""
    severity: Severity = "warning"
    """Severity of its escalations."""


class PresenceRule(RuleSettings):
    """Somebody, or something, is there. It fires again after each cooldown for as long as that is so."""

    kind: Literal["presence"] = "presence"
    """The kind of rule."""
    for_s: float = Field(default=1.0, ge=0, le=3600)
    """Seconds over which it must have been seen."""


class DwellRule(RuleSettings):
    """It stays in a zone, or in the picture. It fires once for each object and stay."""

    kind: Literal["dwell"]
    """The kind of rule."""
    for_s: float = Field(default=30.0, gt=0, le=86_400)
    """Seconds that it stays."""


class LineCrossRule(RuleSettings):
    """It crosses a line. It fires for each crossing that is not within the cooldown."""

    kind: Literal["line-cross"]
    """The kind of rule."""
    line: tuple[Point, Point]
    """The line's ends, ``[x, y]`` as fractions of the picture's width and height."""
    direction: Literal["any", "leftwards", "rightwards"] = "any"
    """Which way counts, seen by somebody who walks from the line's first end to its second."""
    cooldown_s: float = Field(default=0.0, ge=0, le=86_400)
    """Seconds after an escalation in which the rule stays quiet for the same camera."""

    @model_validator(mode="after")
    def _has_length(self) -> Self:
        if self.line[0] == self.line[1]:
            raise ValueError("the two ends of the line are one point, which nobody can cross")
        return self


class AbsenceRule(RuleSettings):
    """Nobody was seen for too long, within the hours and while frames came.

    It fires once, and again only after somebody was seen.
    """

    kind: Literal["absence"]
    """The kind of rule."""
    for_s: float = Field(default=3600.0, gt=0, le=604_800)
    """Seconds in which nobody was seen."""


class StillRule(RuleSettings):
    """Somebody is there and has not moved for too long. It fires once, and again only after that object has moved."""

    kind: Literal["long-time-still"]
    """The kind of rule."""
    for_s: float = Field(default=1800.0, gt=0, le=86_400)
    """Seconds without a movement of more than a quarter of the object's size."""


class OnTheGroundRule(RuleSettings):
    """A person lies down where none should lie, and stays there. It fires once, until that person is up again."""

    kind: Literal["on-the-ground"]
    """The kind of rule."""
    for_s: float = Field(default=10.0, gt=0, le=3600)
    """Seconds that the person lies."""
    severity: Severity = "critical"
    """Severity of its escalations."""
    aspect_min: float = Field(default=1.1, ge=0.5, le=5)
    """Width over height, in pixels, from which a box lies."""
    beds: tuple[Name, ...] = ()
    """Zones of the camera in which people may lie: beds, sofas."""


class CountRule(RuleSettings):
    """Too many are there, or too few. It fires once, and again only after their number was right."""

    kind: Literal["count"]
    """The kind of rule."""
    at_least: int | None = Field(default=None, ge=1, le=1000)
    """It fires when so many or more are there."""
    at_most: int | None = Field(default=None, ge=0, le=1000)
    """It fires when so many or fewer are there."""
    for_s: float = Field(default=2.0, ge=0, le=86_400)
    """Seconds for which that holds."""

    @model_validator(mode="after")
    def _has_one_bound(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("give one of `at_least` and `at_most`")
        return self


def _kind(value: object) -> str:
    """A rule that names no kind is one of presence."""
    if isinstance(value, dict):
        return str(value.get("kind", "presence"))
    return str(getattr(value, "kind", "presence"))


Rule = Annotated[
    Annotated[PresenceRule, Tag("presence")]
    | Annotated[DwellRule, Tag("dwell")]
    | Annotated[LineCrossRule, Tag("line-cross")]
    | Annotated[AbsenceRule, Tag("absence")]
    | Annotated[StillRule, Tag("long-time-still")]
    | Annotated[OnTheGroundRule, Tag("on-the-ground")]
    | Annotated[CountRule, Tag("count")],
    Discriminator(_kind),
]
