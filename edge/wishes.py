"""What people may ask of a camera, read from the value of a command. Pure: the time comes in.

A refusal says what would be accepted, since it is read by somebody who typed the wrong thing.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from config import BadPayloadError
from edge.drills import SEVERITIES, Severity

__all__ = [
    "PROPERTIES",
    "Change",
    "CutClip",
    "KeepLess",
    "RaiseDrill",
    "TakeSnapshot",
    "Value",
    "Wish",
    "Zoom",
    "read_wish",
]

Value = str | bool | float | int
_CLIP_MAX_S = 3600.0
_KEEP_MAX_HOURS = 24.0 * 366
_SHOWN_MAX = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A wish that lasts.

    Attributes:
        field: of :class:`edge.wanted.Commanded`.
        value: None leaves it to the schedule and the settings again.
    """

    field: str
    value: str | bool | float | None


@dataclass(frozen=True, slots=True)
class Zoom:
    """More and larger pictures, while somebody asks for them."""


@dataclass(frozen=True, slots=True)
class TakeSnapshot:
    """A retained picture, now."""


@dataclass(frozen=True, slots=True)
class CutClip:
    """A clip of what was recorded.

    Attributes:
        start: aware,
        end: and later.
    """

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class RaiseDrill:
    """A fake alarm, marked as such."""

    severity: Severity


@dataclass(frozen=True, slots=True)
class KeepLess:
    """Deletes recordings that are old now; those to come are kept as the settings say.

    Attributes:
        hours: of recordings that stay.
    """

    hours: float


Wish = Change | Zoom | TakeSnapshot | CutClip | KeepLess | RaiseDrill


def read_wish(name: str, value: Value, now: datetime) -> Wish:
    """Read a command to a camera.

    Args:
        name: the property.
        value: what it is to be.
        now: aware; a clip's length is counted back from here.

    Raises:
        BadPayloadError: there is no such property, or it cannot have this value; says what can be written.
    """
    read = _READERS.get(name)
    if read is None:
        near = difflib.get_close_matches(name, PROPERTIES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise BadPayloadError(f"a camera has no property {name!r}; {hint}known are {', '.join(PROPERTIES)}")
    return read(value, now)


def _mode(value: Value, now: datetime) -> Wish:
    del now
    word = _word(value)
    if word == "zoom":
        return Zoom()
    if word == "auto":
        return Change(field="mode", value=None)
    if word in ("monitor", "eco", "off"):
        return Change(field="mode", value=word)
    raise _refusal("mode", value, "monitor, zoom, eco, off, or auto for what the schedule and the settings say")


def _switch(field: str) -> Callable[[Value, datetime], Wish]:
    def read(value: Value, now: datetime) -> Wish:
        del now
        word = _word(value)
        if word == "auto":
            return Change(field=field, value=None)
        if word not in ("on", "off", "true", "false"):
            raise _refusal(field, value, "ON, OFF, or auto for what the settings say")
        return Change(field=field, value=word in ("on", "true"))

    return read


def _sensitivity(value: Value, now: datetime) -> Wish:
    del now
    if _word(value) == "auto":
        return Change(field="sensitivity", value=None)
    number = _number(value)
    if not 0.0 <= number <= 1.0:
        raise _refusal("sensitivity", value, "a number from 0 (least) to 1 (most), or auto for what the settings say")
    return Change(field="sensitivity", value=number)


def _snapshot(value: Value, now: datetime) -> Wish:
    del value, now  # whoever asks wants one, whatever he writes
    return TakeSnapshot()


def _drill(value: Value, now: datetime) -> Wish:
    del now
    # Whoever asks wants one, whatever he writes; a button always writes the same.
    word = _word(value)
    return RaiseDrill(next((severity for severity in SEVERITIES if severity == word), SEVERITIES[0]))


def _clip(value: Value, now: datetime) -> Wish:
    start, end = _interval(value) if "/" in str(value) else _last_seconds(value, now)
    if start >= now or end <= start:
        raise BadPayloadError("a clip must begin in the past, and end after it has begun")
    if end - start > timedelta(seconds=_CLIP_MAX_S):
        raise BadPayloadError(f"a clip has at most {_CLIP_MAX_S:.0f} s: ask for several")
    return CutClip(start, end)


def _retention(value: Value, now: datetime) -> Wish:
    del now
    hours = _number(value)
    if not 0 < hours <= _KEEP_MAX_HOURS:
        raise _refusal("retention", value, "how many hours of recordings stay; what is older is deleted")
    return KeepLess(hours)


def _last_seconds(value: Value, now: datetime) -> tuple[datetime, datetime]:
    seconds = _number(value.strip().removesuffix("s") if isinstance(value, str) else value)
    if not 0 < seconds <= _CLIP_MAX_S:
        raise _refusal("clip", value, f"for how many of the last seconds, up to {_CLIP_MAX_S:.0f}, or {_INTERVAL}")
    return now - timedelta(seconds=seconds), now


_INTERVAL = "START/END as 2026-11-21T10:15:00Z/2026-11-21T10:16:00Z"


def _interval(value: Value) -> tuple[datetime, datetime]:
    first, _, second = str(value).partition("/")
    try:
        start, end = datetime.fromisoformat(first.strip()), datetime.fromisoformat(second.strip())
    except ValueError:
        raise _refusal("clip", value, _INTERVAL) from None
    if start.utcoffset() is None or end.utcoffset() is None:
        raise BadPayloadError(f"a clip's times need an offset from UTC, such as the Z in {_INTERVAL}")
    return start, end


def _word(value: Value) -> str:
    return str(value).strip().lower()


def _number(value: Value) -> float:
    """The number; not a number where it is none."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except ValueError:
        return math.nan


def _refusal(name: str, value: Value, allowed: str) -> BadPayloadError:
    return BadPayloadError(f"{name} cannot be {str(value)[:_SHOWN_MAX]!r}: write {allowed}")


_READERS: dict[str, Callable[[Value, datetime], Wish]] = {
    "mode": _mode,
    "privacy": _switch("privacy"),
    "detection": _switch("detection"),
    "recording": _switch("recording"),
    "sensitivity": _sensitivity,
    "snapshot": _snapshot,
    "clip": _clip,
    "retention": _retention,
    "drill": _drill,
}
PROPERTIES = tuple(_READERS)
"""What a camera can be told, as the topic names it."""
