"""When a schedule is due. Pure: the time comes in, and the same question has the same answer.

The times come from APScheduler's triggers alone. Its scheduler reads the machine's own clock wherever it looks at the
time, so that no week could pass in a test; and what was missed, what it makes up for and what it says of that is what
schedules of a site are about.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger

from config.clock import local_zone
from config.durations import parse_duration
from config.registry import SiteEntry
from config.schedules import Schedule, Window, read_cron
from config.section import DAYS

__all__ = ["Timetable", "in_words", "is_open", "next_open", "site_zone"]

_ANCHOR = datetime(2026, 1, 1)  # noqa: DTZ001 - its zone is the site's
"""The midnight from which `every` is counted: the same for every process, so that a restart moves nothing."""
_LEFT_OUT_MAX = 100_000
"""Times outside of a schedule's hours that are passed over before it counts as never due."""
_LOOK_AHEAD_DAYS = 8


def site_zone(site: SiteEntry | None) -> tzinfo:
    """The zone in which a site's schedules and windows are meant; without one, that of this machine."""
    return ZoneInfo(site.time_zone) if site is not None and site.time_zone else local_zone()


def is_open(windows: Iterable[Window], moment: datetime, zone: tzinfo) -> bool:
    """Whether a moment is inside of one of these hours; where there are none, always."""
    windows = tuple(windows)
    local = moment.astimezone(zone)
    return not windows or any(_covers(window, local) for window in windows)


def _covers(window: Window, local: datetime) -> bool:
    today, yesterday = DAYS[local.weekday()], DAYS[local.weekday() - 1]
    now = local.time()
    if window.start < window.end:
        return today in window.days and window.start <= now < window.end
    return (today in window.days and now >= window.start) or (yesterday in window.days and now < window.end)


def next_open(windows: Iterable[Window], moment: datetime, zone: tzinfo) -> datetime:
    """The first moment from `moment` on that is inside of one of these hours, UTC."""
    windows = tuple(windows)
    if is_open(windows, moment, zone):
        return moment
    local = moment.astimezone(zone)
    starts = (
        datetime.combine(local.date() + timedelta(days=days), window.start, tzinfo=zone).astimezone(UTC)
        for window in windows
        for days in range(_LOOK_AHEAD_DAYS)
        if DAYS[(local.weekday() + days) % 7] in window.days
    )
    return min(start for start in starts if start > moment)


class Timetable:
    """The times of one schedule.

    Args:
        name: of the schedule: its jitter is a matter of this name and the time, so that `vigil schedule next` tells
            what will be.
        schedule: when.
        zone: of the site.
    """

    def __init__(self, name: str, schedule: Schedule, zone: tzinfo) -> None:
        self._name = name
        self._schedule = schedule
        self._zone = zone
        self._cron = None if schedule.cron is None else _trigger(schedule.cron, zone)
        self._fixed_hour = schedule.cron is not None and not read_cron(schedule.cron)[1].startswith("*")

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Every time at which it is due, without jitter, UTC: later than `moment`, in order; perhaps none."""
        hours = self._schedule.hours
        left_out = 0
        for due in self._times(moment):
            if is_open(hours, due, self._zone):
                left_out = 0
                yield due
            elif (left_out := left_out + 1) > _LEFT_OUT_MAX:
                return

    def with_jitter(self, due: datetime) -> datetime:
        """When a run really begins that is due then."""
        digest = hashlib.sha256(f"{self._name}@{due.timestamp():.0f}".encode()).digest()
        return due + timedelta(seconds=self._schedule.jitter_s * int.from_bytes(digest[:4]) / 2**32)

    def _times(self, moment: datetime) -> Iterator[datetime]:
        return self._by_interval(moment) if self._cron is None else self._by_cron(self._cron, moment)

    def _by_interval(self, moment: datetime) -> Iterator[datetime]:
        every = timedelta(seconds=parse_duration(self._schedule.every or ""))
        anchor = _ANCHOR.replace(tzinfo=self._zone).astimezone(UTC)
        first = (moment - anchor) // every + 1
        return (anchor + number * every for number in itertools.count(first))

    def _by_cron(self, cron: CronTrigger, moment: datetime) -> Iterator[datetime]:
        # It rounds up to full seconds, and would give a moment itself.
        at = (moment + timedelta(microseconds=1)).astimezone(self._zone)
        while (due := cron.get_next_fire_time(None, at)) is not None:
            utc = due.astimezone(UTC)
            # One that a clock change leaves out has no such local time: what it is made up at is told.
            if not (self._fixed_hour and utc.astimezone(self._zone).fold):
                yield utc
            at = (utc + timedelta(seconds=1)).astimezone(self._zone)


def _trigger(cron: str, zone: tzinfo) -> CronTrigger:
    minute, hour, day, month, week = read_cron(cron)
    return CronTrigger(minute=minute, hour=hour, day=day, month=month, day_of_week=week, timezone=zone)


def in_words(schedule: Schedule) -> str:
    """When it is due, for a person."""
    when = f"every {schedule.every}" if schedule.every is not None else _cron_in_words(schedule.cron or "")
    if schedule.hours:
        when += f", within {len(schedule.hours)} window" + ("s" if len(schedule.hours) > 1 else "")
    if schedule.task == "reboot" and schedule.quiet:
        when += f", then in a quiet hour within {schedule.within_hours:g} h"
    return when


def _cron_in_words(cron: str) -> str:
    minute, hour, day, month, week = read_cron(cron)
    if "," in minute or minute == "*" or hour.startswith("*"):
        times = _often(minute, hour)
    else:
        times = "at " + ", ".join(f"{int(h):02}:{int(minute):02}" for h in hour.split(","))
    days = {"*": "every day", "mon,tue,wed,thu,fri": "mon to fri", "sun,sat": "sat and sun"}.get(week, f"on {week}")
    if day != "*":
        days = f"on day {day} of the month"
    months = "" if month == "*" else f", in month {month}"
    return f"{times} {days}{months}"


def _often(minute: str, hour: str) -> str:
    minutes = "every minute" if minute == "*" else f"at minute {minute}"
    if hour == "*":
        return f"{minutes} of every hour,"
    if hour.startswith("*/"):
        return f"{minutes} of every {hour[2:]}. hour,"
    return f"{minutes} of hour {hour},"
