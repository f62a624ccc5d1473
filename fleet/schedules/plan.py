"""Which schedules are due, and what was missed. Pure: the time comes in."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from config.schedules import Schedule
from fleet.schedules.timetable import Timetable

__all__ = ["Due", "Plan", "definition", "upcoming"]

_MISSED_MAX = 10_000
"""Missed runs that are counted; whoever was away for longer begins with now."""
_AHEAD_MAX = timedelta(hours=1)
"""A note of a later time than this from now was made by a clock that was wrong."""


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be done with a schedule now.

    Attributes:
        at: the time that it was due at.
        missed: runs before or with it that were not made.
        run: whether it is to run; one that is left out was missed.
    """

    name: str
    schedule: Schedule
    at: datetime
    missed: int
    run: bool


def definition(schedule: Schedule, zone: tzinfo) -> str:
    """What the times of a schedule depend on; nothing is missed of one while it is paused."""
    return f"{schedule.cron or ''}|{schedule.every or ''}|{schedule.hours}|{zone}|{schedule.paused}"


class _Entry:
    """One schedule on its way through time."""

    def __init__(self, name: str, schedule: Schedule, zone: tzinfo, settled: datetime) -> None:
        self.name, self.schedule, self.settled = name, schedule, settled
        self._timetable = Timetable(name, schedule, zone)
        self._times: Iterator[datetime] = self._timetable.after(settled)
        self.next: datetime | None = next(self._times, None)

    @property
    def next_begin(self) -> datetime | None:
        """When the next run begins, jitter and all."""
        return None if self.next is None else self._timetable.with_jitter(self.next)

    def due(self, now: datetime) -> Due | None:
        """What has come since the last time."""
        if self.settled > now + _AHEAD_MAX:
            self._begin_anew(now)
        grace = timedelta(seconds=self.schedule.grace_s)
        missed, last, on_time = 0, None, False
        while self.next is not None and (begin := self._timetable.with_jitter(self.next)) <= now:
            last, on_time = self.next, now - begin <= grace
            missed += not on_time
            self.settled = last
            self.next = next(self._times, None)
            if missed >= _MISSED_MAX:
                self._begin_anew(now)
        if last is None:
            return None
        run = on_time or self.schedule.missed == "run"
        return Due(self.name, self.schedule, last, missed, run)

    def _begin_anew(self, now: datetime) -> None:
        self.settled = now
        self._times = self._timetable.after(now)
        self.next = next(self._times, None)


class Plan:
    """All schedules of a site.

    Concurrency: one thread.
    """

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def set(self, schedules: Mapping[str, Schedule], zone: tzinfo, settled: Mapping[str, datetime]) -> None:
        """Follow these schedules.

        Args:
            schedules: by name; one that is paused is not followed.
            zone: of the site.
            settled: of each, up to when every run was made or left out.
        """
        self._entries = {
            name: _Entry(name, schedule, zone, settled[name])
            for name, schedule in schedules.items()
            if not schedule.paused
        }

    def due(self, now: datetime) -> list[Due]:
        """What is due, in order of time; each is told once."""
        found = [due for entry in self._entries.values() if (due := entry.due(now)) is not None]
        return sorted(found, key=lambda due: (due.at, due.name))

    def settled(self) -> dict[str, datetime]:
        """Of each schedule, up to when every run was made or left out."""
        return {name: entry.settled for name, entry in self._entries.items()}

    def wait_s(self, now: datetime) -> float:
        """Seconds until the next run begins; infinity where there is none."""
        begins = [begin for entry in self._entries.values() if (begin := entry.next_begin) is not None]
        return max(0.0, (min(begins) - now).total_seconds()) if begins else math.inf


def upcoming(schedules: Mapping[str, Schedule], zone: tzinfo, now: datetime, count: int) -> list[tuple[datetime, str]]:
    """The next runs of all schedules, with their jitter, in order of time.

    Returns:
        When, UTC, and of which schedule.
    """
    found: list[tuple[datetime, str]] = []
    for name, schedule in schedules.items():
        if schedule.paused:
            continue
        timetable = Timetable(name, schedule, zone)
        # One that was due and waits for its jitter comes first.
        since = now.astimezone(UTC) - timedelta(seconds=schedule.jitter_s)
        begins = (timetable.with_jitter(due) for due in timetable.after(since))
        found += [(begin, name) for begin in itertools.islice((begin for begin in begins if begin > now), count)]
    return sorted(found)[:count]
