"""The settings of schedules and safety checks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from config.names import Name
from config.section import Fraction, Section

__all__ = ["SafetyChecks", "Schedule"]


class SafetyChecks(Section):
    """What a safety check looks at; a failure is an escalation."""

    fresh_s: float = Field(default=10.0, gt=0, le=3600)
    """Seconds within which a fresh picture must come."""
    checks: tuple[Literal["fresh", "black", "blurred", "covered", "turned", "frozen"], ...] = (
        "fresh", "black", "blurred", "covered", "turned", "frozen",
    )  # fmt: skip
    """What is looked at."""
    sensitivity: Fraction = 0.5
    """How little counts as blurred, covered or turned; 0 the least sensitive, 1 the most."""


class Schedule(Section):
    """Something that is done at given times."""

    task: Literal["snapshot", "check", "reboot", "retention", "update", "models"]
    """What is done."""
    at: Annotated[str, Field(min_length=1)]
    """When, as a cron expression of five fields."""
    cameras: tuple[Name, ...] = ()
    """Of which cameras; empty: of all."""
    jitter_s: float = Field(default=0.0, ge=0, le=3600)
    """Seconds by which it is moved at random, so that not everything happens at once."""
    missed: Literal["skip", "run"] = "skip"
    """What becomes of runs that were missed while nobody kept the schedules: left out, or the last made good."""
