"""What the schedules remember: a small file of the state folder. Where it was deleted, nothing is made up for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from config import get_logger
from config.files import write_atomically

__all__ = ["AlarmNote", "NoteBook", "Notes", "Outcome", "RebootNote", "RunNote", "ScheduleNote", "read_notes"]

Outcome = Literal["running", "done", "failed", "missed"]


class RunNote(msgspec.Struct):
    """The last run of a schedule.

    Attributes:
        due: when it was due; of one that was asked for, when.
        outcome: ``missed`` is one that was left out.
        about: what came of it, for a person.
    """

    due: datetime
    began: datetime
    outcome: Outcome = "running"
    ended: datetime | None = None
    about: str = ""


class ScheduleNote(msgspec.Struct):
    """One schedule.

    Attributes:
        of: its times, as its settings say them: where they change, it begins anew.
        settled: up to when every run was made, or left out.
    """

    of: str
    settled: datetime
    last: RunNote | None = None


class RebootNote(msgspec.Struct):
    """A camera that waits for its restart.

    Attributes:
        until: when it is given up.
        quiet: only in its quiet hour.
    """

    schedule: str
    until: datetime
    quiet: bool


class AlarmNote(msgspec.Struct):
    """What was escalated of a camera and is not well yet."""

    checks: tuple[str, ...]
    at: datetime


class Notes(msgspec.Struct):
    """The file.

    Attributes:
        schedules: by name.
        reboots: by camera.
        alarms: by camera.
    """

    schedules: dict[str, ScheduleNote] = msgspec.field(default_factory=dict)
    reboots: dict[str, RebootNote] = msgspec.field(default_factory=dict)
    alarms: dict[str, AlarmNote] = msgspec.field(default_factory=dict)


def read_notes(path: Path) -> Notes:
    """The notes; empty ones where there are none. A file that cannot be read is said, and what it knew is forgotten."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Notes)
    except FileNotFoundError:
        return Notes()
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        get_logger().warning("schedules.forgotten", path=str(path), error=str(error))
        return Notes()


class NoteBook:
    """Keeps the notes.

    Concurrency: may be used from any thread.

    Args:
        path: the file; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._log = get_logger(path=str(path))
        self._notes = read_notes(path)
        self._written = msgspec.json.encode(self._notes)

    @contextmanager
    def open(self) -> Iterator[Notes]:
        """The notes, to read and to change; on disk afterwards where they have changed.

        A disk that takes nothing is said, and stops no schedule: the notes are there until the process ends.
        """
        with self._lock:
            yield self._notes
            content = msgspec.json.encode(self._notes)
            if content == self._written:
                return
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self._path, msgspec.json.format(content, indent=1))
            except OSError as error:
                self._log.warning("schedules.unwritten", error=str(error))
                return
            self._written = content
