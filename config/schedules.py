"""The settings of schedules, of the hours in which something may change, and of safety checks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import time
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from config.durations import parse_duration
from config.names import Name
from config.section import DAYS, Day, Fraction, Section

__all__ = ["CHECKS", "CheckName", "Cron", "SafetyChecks", "Schedule", "Task", "Window", "Windows", "read_cron"]

CheckName = Literal["fresh", "black", "blurred", "covered", "turned", "frozen"]
CHECKS: tuple[CheckName, ...] = ("fresh", "black", "blurred", "covered", "turned", "frozen")
Task = Literal["snapshot", "check", "reboot", "retention"]
_EVERY_MIN_S = 10.0
_EVERY_MAX_S = 366 * 86_400.0
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEK = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
"""As cron counts them: Sunday is 0 and 7."""
_PART = re.compile(r"(?P<from>\*|\w+)(?:-(?P<to>\w+))?(?:/(?P<step>\d+))?")
Cron = tuple[str, str, str, str, str]
"""Minute, hour, day of the month, month, days of the week: numbers and commas only, days by their names; ``*`` where it
is any. The hour keeps a ``*/N``, since a clock change does to it what it does to no fixed hour."""


def read_cron(text: str) -> Cron:
    """Take a cron expression apart.

    Args:
        text: five fields: minute, hour, day of the month, month, day of the week; numbers, names of months and days,
            lists (``1,15``), ranges (``mon-fri``) and steps (``*/10``).

    Raises:
        ValueError: it is none; says which field, and what can be written.
    """
    fields = text.lower().split()
    if len(fields) != 5:
        raise ValueError(
            f"{text!r} has {len(fields)} fields: write minute, hour, day of the month, month and day of the week, "
            "such as '30 4 * * mon-fri'"
        )
    minute, hour, day, month, week = fields
    if day != "*" and week != "*":
        raise ValueError(f"{text!r} names days of the month and of the week: use two schedules")
    days = dict.fromkeys(_WEEK[number] for number in _numbers("day of the week", week, 0, 7, _WEEK[:7]))
    any_hour = hour == "*" or hour.startswith("*/")
    hours = _joined("hour", hour, 0, 23)
    return (
        _joined("minute", minute, 0, 59),
        hour if any_hour else hours,
        _joined("day of the month", day, 1, 31),
        _joined("month", month, 1, 12, _MONTHS),
        "*" if week == "*" else ",".join(days),
    )


def _joined(what: str, field: str, low: int, high: int, names: tuple[str, ...] = ()) -> str:
    numbers = ",".join(map(str, _numbers(what, field, low, high, names)))
    return "*" if field == "*" else numbers


def _numbers(what: str, field: str, low: int, high: int, names: tuple[str, ...] = ()) -> list[int]:
    return sorted({number for part in field.split(",") for number in _part(what, part, low, high, names)})


def _part(what: str, part: str, low: int, high: int, names: tuple[str, ...]) -> Iterator[int]:
    found = _PART.fullmatch(part)
    if found is None or found["step"] == "0":
        raise ValueError(f"{part!r} is no {what}: write a number, a range such as 1-5, or a step such as */2")
    step = int(found["step"] or 1)
    if found["from"] == "*":
        return iter(range(low, high + 1, step))
    first = _number(what, found["from"], low, high, names)
    last = first if found["to"] is None else _number(what, found["to"], low, high, names)
    if found["to"] is None and found["step"]:
        last = high
    if last < first and names == _WEEK[:7]:
        last += 7  # sat-mon
    if last < first:
        raise ValueError(f"{part!r} is no range of the {what}: its end comes before its begin")
    return (low + (number - low) % 7 if names == _WEEK[:7] else number for number in range(first, last + 1, step))


def _number(what: str, word: str, low: int, high: int, names: tuple[str, ...]) -> int:
    if word in names:
        return names.index(word) + (1 if names == _MONTHS else 0)
    if not word.isascii() or not word.isdigit() or not low <= int(word) <= high:
        raise ValueError(f"{word!r} is no {what}: write {low} to {high}" + (f" or {names[0]} …" if names else ""))
    return int(word)


def _check_cron(value: str) -> str:
    read_cron(value)
    return value


def _check_every(value: str) -> str:
    if not _EVERY_MIN_S <= parse_duration(value) <= _EVERY_MAX_S:
        raise ValueError(f"{value!r} is not between 10s and 366d")
    return value


class SafetyChecks(Section):
    """What a safety check of a camera looks at. A failure is an escalation."""

    fresh_s: float = Field(default=10.0, ge=1, le=3600)
    """Seconds within which a fresh picture must come."""
    checks: tuple[CheckName, ...] = CHECKS
    """What is looked at: whether a picture comes (``fresh``), whether it is ``black``, ``blurred``, ``covered``,
    ``turned`` away, or ``frozen``. ``blurred`` and ``turned`` need a reference picture (`vigil camera check NAME
    --take-reference`)."""
    sensitivity: Fraction = 0.5
    """How little counts as blurred, covered or turned; 0 the least sensitive, 1 the most."""
    confirm_s: float = Field(default=20.0, ge=0, le=600)
    """Seconds after which a scheduled check looks again at what was not well before it tells anybody: a lorry that
    stops before the lens has gone on by then."""
    again_hours: float = Field(default=12.0, ge=0.1, le=24 * 31)
    """Hours after which what is still not well is escalated again; something else that is not well is so at once."""
    severity: Literal["info", "warning", "critical"] = "warning"
    """Of the escalation."""


class Window(Section):
    """Hours of some days, on the site's clock."""

    start: time
    """When they begin, ``"22:00"``."""
    end: time
    """When they end; before `start` it is on the next day, the same is a whole day."""
    days: Annotated[tuple[Day, ...], Field(min_length=1)] = DAYS
    """Days on which they begin."""


class Windows(Section):
    """The hours in which something may change by itself; where there are none, at any hour."""

    models: tuple[Window, ...] = ()
    """When workers may be told to use another model: what `vigil models use` says outside of them waits."""
    updates: tuple[Window, ...] = ()
    """When nodes may be given another version."""


class Schedule(Section):
    """Something that is done at given times, on the site's clock.

    ``snapshot`` takes a retained picture of each camera, ``check`` makes a safety check, ``reboot`` restarts cameras
    over ONVIF, ``retention`` deletes recordings that are older than `keep_hours`.
    """

    task: Task
    """What is done."""
    cron: Annotated[str, AfterValidator(_check_cron)] | None = None
    """When: minute, hour, day of the month, month, day of the week, such as ``30 4 * * mon-fri``. Where the clocks
    change, an hour that comes twice counts once (unless the hour is ``*`` or ``*/N``), and a time that is left out is
    made up an hour later;"""
    every: Annotated[str, AfterValidator(_check_every)] | None = None
    """or how often, such as ``90s``, ``6h`` or ``7d``: counted from a midnight, in time that really passes."""
    cameras: tuple[Name, ...] = ()
    """Of which cameras; with `areas` those of both; neither: of all."""
    areas: tuple[str, ...] = ()
    """Of all cameras of these areas."""
    jitter_s: float = Field(default=0.0, ge=0, le=3600)
    """Seconds by which each run is put off at most, so that not everything happens at once."""
    missed: Literal["skip", "run"] = "skip"
    """What becomes of runs that were missed while nobody kept the schedules: left out, or the last made good."""
    grace_s: float = Field(default=60.0, ge=1, le=86_400)
    """Seconds that a run may be late and is not missed yet."""
    hours: tuple[Window, ...] = ()
    """Where given, runs whose time is outside of these hours are left out."""
    quiet: bool = True
    """Of ``reboot``: each camera in its quiet hour, as its movement has taught, within `within_hours` of the given
    time; False: at the given time. Never while something moves."""
    within_hours: float = Field(default=24.0, ge=0.5, le=24 * 7)
    """Of ``reboot``: hours after which one that found no good moment is given up."""
    keep_hours: float | None = Field(default=None, gt=0, le=24 * 366)
    """Of ``retention``: hours of recordings that stay; what events protect stays for its time. Recordings and the
    journal go by themselves when they are as old as their own settings say: this is for less, at a given time."""
    paused: bool = False
    """It does not run by itself."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.cron is None) == (self.every is None):
            raise ValueError("a schedule has a `cron` expression or an `every`, one of them")
        if (self.task == "retention") != (self.keep_hours is not None):
            raise ValueError("`keep_hours` belongs to the task `retention`, which needs it")
        return self
