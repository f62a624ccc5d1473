"""Time, passed in: real for processes, simulated for tests.

Nothing in Vigil calls :func:`time.time` where a :class:`Clock` could have been handed over, so that a test can
let an hour pass in a millisecond.
"""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

__all__ = ["Clock", "ManualClock", "SystemClock", "local_zone"]


class Clock(Protocol):
    """What the rest of the code may know about time."""

    def now(self) -> datetime:
        """Wall-clock time, aware, in UTC."""
        ...

    def monotonic_s(self) -> float:
        """Seconds that never jump, from an arbitrary start."""
        ...

    def wait(self, stop: threading.Event, timeout_s: float) -> bool:
        """Sleep until `stop` is set or `timeout_s` has passed; True when `stop` is set."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        """Wall-clock time, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()

    def wait(self, stop: threading.Event, timeout_s: float) -> bool:
        """Sleep until `stop` is set or `timeout_s` has passed; True when `stop` is set."""
        return stop.wait(max(0.0, timeout_s))


class ManualClock:
    """A clock that moves when it is told to, or when somebody waits on it.

    Concurrency: safe between threads; a `wait` returns at once and moves the time forward by its timeout.

    Args:
        start: the first wall-clock time; aware.
    """

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._elapsed_s = 0.0
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """The simulated wall-clock time."""
        return self._start + timedelta(seconds=self.monotonic_s())

    def monotonic_s(self) -> float:
        """Simulated seconds since the start."""
        with self._lock:
            return self._elapsed_s

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass; at least 0."""
        with self._lock:
            self._elapsed_s += max(0.0, seconds)

    def wait(self, stop: threading.Event, timeout_s: float) -> bool:
        """Let `timeout_s` pass at once, unless `stop` is set; True when `stop` is set."""
        if not stop.is_set():
            self.advance(timeout_s)
        return stop.is_set()


def local_zone() -> tzinfo:
    """The time zone of this machine, with its rules for summer and winter; UTC where it says nothing."""
    name = os.environ.get("TZ", "").lstrip(":")
    try:
        if name:
            return ZoneInfo(name)
        with Path("/etc/localtime").open("rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError, ZoneInfoNotFoundError):
        return UTC
