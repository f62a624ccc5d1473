"""How long the journal keeps what it has: the oldest rows go, in small transactions beside whoever writes.

Old is what was stored long ago by the bridge's own clock: a node whose clock says 1970 loses nothing for that. When the
file is too large the oldest events go first, and escalations only once there are no events.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from bridge._sqlite import Database
from bridge.journal.expired import note_expired
from bridge.sink import Table, utc_text
from broker.topics import CAMERA_ESCALATION
from config import Clock, Supervised, SystemClock, get_logger
from config.outside import RetentionSettings

__all__ = ["Retention"]

_EVERY_S = 2.0
_ROWS_AT_ONCE = 256
_BYTES_AT_ONCE = 4_000_000
"""The writer waits no longer than for one step: 5 to 20 ms."""
_PAGES_AT_ONCE = 256
_PAUSE_S = 0.02
_ROW_BYTES = 600
"""What a row takes beside its payload, in its table and in the indexes; only the size of a step hangs on it."""
_SPARE_BYTES = 16_000_000
"""Free space that stays in the file, so that a full disk refuses the next messages a little later."""
_TOLD_EVERY_S = 3_600.0
_EVERYTHING = 2**63 - 1
_STREAM: dict[Table, str] = {"event": "stream", "escalation": f"'{CAMERA_ESCALATION.name}'"}
"""Events before escalations."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One of the oldest rows."""

    id: int
    identity: tuple[str, str, str, int]
    stored_at: str
    size_bytes: int


class Retention:
    """Deletes what is too old, or too much.

    Concurrency: one thread of this object, between whose steps others write.

    Args:
        database: the journal's.
        settings: how long, and how much.
        deletable: tells the highest row of a table that may go; the others stay, whatever they take.
        clock: time.
    """

    def __init__(
        self,
        database: Database,
        settings: RetentionSettings,
        *,
        deletable: Callable[[sqlite3.Connection, Table], int] = lambda _db, _table: _EVERYTHING,
        clock: Clock | None = None,
    ) -> None:
        self._database = database
        self._settings = settings
        self._deletable = deletable
        self._clock: Clock = clock or SystemClock()
        self._spare_bytes = min(_SPARE_BYTES, settings.bytes_max // 20)
        self._expired = Counter[Table]()
        self._early = Counter[Table]()
        self._told_at_s: dict[str, float] = {}
        self._log = get_logger(path=str(database.path))
        self._stop = threading.Event()
        self._thread = Supervised("retention", self._pass_once, stop=self._stop, clock=self._clock)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End, after the step that is being made."""
        self._stop.set()
        self._thread.join(3.0)

    def _pass_once(self) -> None:
        before_s = self._clock.monotonic_s()
        while self.step() and not self._stop.is_set():
            taken_s = self._clock.monotonic_s() - before_s
            # As long as the step took: half of the time is the writer's.
            self._clock.wait(self._stop, max(_PAUSE_S, taken_s))
            before_s = self._clock.monotonic_s()
        self._tell()
        self._clock.wait(self._stop, _EVERY_S)

    def step(self) -> bool:
        """Delete some rows, or give some space back; whether there was anything to do.

        Raises:
            TransientError: the disk did not take it.
            PermanentError: the file is damaged.
        """
        # Not flushed: what a power cut takes back is deleted again.
        with self._database.writing("NORMAL") as db:
            if self._delete_some(db):
                return True
        with self._database.reading() as db:
            return self._shrink(db)

    def _delete_some(self, db: sqlite3.Connection) -> bool:
        excess_bytes = self._used_bytes(db) - (self._settings.bytes_max - self._spare_bytes)
        cutoff = utc_text(self._clock.now() - timedelta(days=self._settings.days))
        for table in _STREAM:
            gone, early = _too_many(_oldest(db, table, self._deletable(db, table)), cutoff, excess_bytes)
            if gone:
                note_expired(db, (row.identity for row in gone))
                db.execute(f"DELETE FROM {table} WHERE id <= ?", (gone[-1].id,))  # noqa: S608 - a constant
                self._expired[table] += len(gone)
                self._early[table] += early
                return True
        return False

    def _used_bytes(self, db: sqlite3.Connection) -> int:
        return (_pragma(db, "page_count") - _pragma(db, "freelist_count")) * _pragma(db, "page_size")

    def _shrink(self, db: sqlite3.Connection) -> bool:
        """Give free pages back to the system, but for the spare ones."""
        excess = _pragma(db, "freelist_count") - self._spare_bytes // _pragma(db, "page_size")
        if excess <= 0:
            return False
        # As a script: it is a step a page, and `execute` takes one step of what has no columns.
        db.executescript(f"PRAGMA incremental_vacuum({min(excess, _PAGES_AT_ONCE)})")
        if excess <= _PAGES_AT_ONCE:
            # The file itself gets shorter when the write-ahead log is carried over into it.
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        return True

    def _tell(self) -> None:
        if self._is_due(self._expired, "expired"):
            self._log.info("journal.expired", events=self._expired["event"], escalations=self._expired["escalation"])
            self._expired.clear()
        if self._is_due(self._early, "early"):
            self._log.warning(
                "journal.full",
                events=self._early["event"],
                escalations=self._early["escalation"],
                bytes_max=self._settings.bytes_max,
                cure="these were deleted before bridge.retention.days: raise bridge.retention.bytes_max",
            )
            self._early.clear()

    def _is_due(self, counted: Counter[Table], what: str) -> bool:
        """Whether there is something to tell, the first time at once and then once an hour."""
        now_s = self._clock.monotonic_s()
        if not counted.total() or now_s - self._told_at_s.get(what, float("-inf")) < _TOLD_EVERY_S:
            return False
        self._told_at_s[what] = now_s
        return True


def _oldest(db: sqlite3.Connection, table: Table, up_to: int) -> list[_Row]:
    rows = db.execute(
        f"SELECT id, {_STREAM[table]}, origin, epoch, seq, stored_at, length(payload) "  # noqa: S608 - constants only
        f"FROM {table} WHERE id <= ? ORDER BY id LIMIT ?",
        (up_to, _ROWS_AT_ONCE),
    )
    return [_Row(place, (stream, origin, epoch, seq), at, size) for place, stream, origin, epoch, seq, at, size in rows]


def _too_many(oldest: list[_Row], cutoff: str, excess_bytes: int) -> tuple[list[_Row], int]:
    """Those of the first rows that have to go now, and how many of them are not old yet."""
    gone: list[_Row] = []
    freed_bytes, early = 0, 0
    for row in oldest:
        is_old = row.stored_at < cutoff
        if not (is_old or freed_bytes < excess_bytes) or freed_bytes >= _BYTES_AT_ONCE:
            break
        gone.append(row)
        freed_bytes += row.size_bytes + _ROW_BYTES
        early += not is_old
    return gone, early


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])
