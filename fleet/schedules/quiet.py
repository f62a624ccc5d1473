"""When little moves in front of a camera, learned from what its node says of the last hours.

An hour of the week is what it was in the weeks before, the last one for most; one of which nothing is known is like the
same hour of other days, and without any, nights are quiet.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import msgspec

from broker.messages import MotionTrend
from config import get_logger
from config.files import write_atomically

__all__ = ["QuietHours"]

_CAMERAS_MAX = 10_000
"""Anybody with access to the bus may invent names."""
_HOUR = timedelta(hours=1)
_WATCHED_MIN_S = 900.0
"""An hour of which less was watched says little."""
_NEW_PART = 0.4
_AS_QUIET = 0.005
"""Share of an hour, 18 s, by which one may move more than the quietest."""
_NIGHT, _UNKNOWN_NIGHT, _UNKNOWN_DAY = range(1, 5), 0.05, 0.5


class _Learned(msgspec.Struct):
    """One camera.

    Attributes:
        until: start of the last hour that was learned.
        week: share of each hour that something moved in, by 24 times the weekday and the local hour.
    """

    until: datetime | None = None
    week: dict[int, float] = msgspec.field(default_factory=dict)


class QuietHours:
    """Learns, and remembers in a file that may be deleted.

    Concurrency: may be used from any thread.

    Args:
        path: the file; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._log = get_logger(path=str(path))
        self._is_new = False
        try:
            self._cameras = msgspec.json.decode(path.read_bytes(), type=dict[str, _Learned])
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            self._cameras = {}

    def learn(self, trend: MotionTrend, zone: tzinfo) -> None:
        """Take in what a camera's node says of the last hours; an hour that is not over is left for later."""
        with self._lock:
            if trend.camera not in self._cameras and len(self._cameras) >= _CAMERAS_MAX:
                return
            learned = self._cameras.setdefault(trend.camera, _Learned())
            before = learned.until
            if before is not None and before > trend.at:
                learned.until = None  # by a clock that was wrong
            for hour in trend.hours:
                over = hour.start + _HOUR <= trend.at
                if not over or hour.watched_s < _WATCHED_MIN_S or (learned.until and hour.start <= learned.until):
                    continue
                self._take(learned, hour.start.astimezone(zone), min(1.0, hour.moving_s / hour.watched_s))
                learned.until = hour.start
            self._is_new = self._is_new or learned.until != before

    def _take(self, learned: _Learned, local: datetime, share: float) -> None:
        slot = _slot(local)
        known = learned.week.get(slot)
        learned.week[slot] = share if known is None else known + _NEW_PART * (share - known)

    def save(self) -> None:
        """Write down what was learned since the last time; not for the bus's thread, since all is written."""
        with self._lock:
            if not self._is_new:
                return
            self._is_new, content = False, msgspec.json.encode(self._cameras)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, content)
        except OSError as error:
            self._log.debug("schedules.quiet_unwritten", error=str(error))

    def expected(self, camera: str, moment: datetime, zone: tzinfo) -> float:
        """The share of an hour in which something will probably move, 0 to 1."""
        local = moment.astimezone(zone)
        with self._lock:
            learned = self._cameras.get(camera, _Learned()).week
            known = learned.get(_slot(local))
            others = [learned[24 * day + local.hour] for day in range(7) if 24 * day + local.hour in learned]
        if known is not None:
            return known
        if others:
            return sum(others) / len(others)
        return _UNKNOWN_NIGHT if local.hour in _NIGHT else _UNKNOWN_DAY

    def is_quiet(self, camera: str, now: datetime, until: datetime, zone: tzinfo) -> bool:
        """Whether it will hardly be quieter before `until` than in this hour."""
        here = self.expected(camera, now, zone)
        return here <= min(self.expected(camera, hour, zone) for hour in _hours(now, until)) + _AS_QUIET


def _slot(local: datetime) -> int:
    return 24 * local.weekday() + local.hour


def _hours(now: datetime, until: datetime) -> Iterator[datetime]:
    hour = now.astimezone(UTC)
    while hour <= max(now, until):
        yield hour
        hour += _HOUR
