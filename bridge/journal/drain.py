"""The journal into Kafka, once a Kafka is there: the oldest first, behind everything live, and only once.

How far it has come is kept in the journal's own file and flushed to the disk, so that a bridge that was killed goes on
from there; what it had sent beyond that the sink recognises by its id. Escalations go before events.

A mark says "all rows up to this one are in Kafka". Rows of cameras that this bridge does not serve (with
``exactly-once`` only the owner of a shard may write what belongs to it) are passed over: then there is a mark a camera
beyond them, and they are looked at again when the bridge serves them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bridge.journal.retention import Retention
from bridge.journal.schema import AT, COMMON, DETAILS, journal_database
from bridge.sink import ESCALATIONS, Record, StoredAt, Table
from config import Clock, PermanentError, SystemClock, TransientError, get_logger
from config.outside import RetentionSettings

__all__ = ["JournalBacklog", "drained_up_to"]

_LOOK_EVERY_S = 2.0
"""Nothing comes into a journal that is no sink any more, but another bridge may end, or shards move."""
_AFTER_ERROR_S = 10.0
_SAVE_EVERY_S = 0.25
"""Each time the disk is waited for, and what is live waits as well. What is not noted yet would be sent again, and be
recognised."""
_ROWS_SEEN = 4_000
_BYTES_AT_ONCE = 8_000_000
_TABLES: tuple[Table, ...] = ("escalation", "event")
_ALL = ""
"""Stands for every camera in the table `drained`."""


@dataclass(slots=True, eq=False)
class _Handed:
    """A row that was handed out."""

    id: int
    camera: str
    stored: bool = False


@dataclass(slots=True)
class _Progress:
    """How far one table is.

    Attributes:
        up_to: marks by camera; `_ALL` for all of them.
        position: rows up to this one were looked at.
        passed_over: the first row of a camera that is not served; None: there was none.
        foreign: those cameras.
        handed: what was handed out and is not in Kafka yet, or is but something before it is not.
        unsaved: cameras whose mark is not on disk.
    """

    up_to: dict[str, int] = field(default_factory=dict)
    position: int = 0
    passed_over: int | None = None
    foreign: set[str] = field(default_factory=set)
    handed: deque[_Handed] = field(default_factory=deque)
    unsaved: set[str] = field(default_factory=set)

    def restart(self, marks: dict[str, int]) -> None:
        """Begin after the mark of all cameras."""
        self.up_to = marks
        self.position = marks.get(_ALL, 0)
        self.passed_over = None
        self.foreign.clear()

    def wants(self, row: int, camera: str, *, serves: bool) -> bool:
        """Look at the next row; whether it is to be sent."""
        self.position = row
        if not serves:
            self.passed_over = self.passed_over or row
            self.foreign.add(camera)
        return serves

    def drop(self, serves: Callable[[str], bool]) -> None:
        """Forget what was handed out and may not go out any more: it is passed over."""
        lost = [row for row in self.handed if not row.stored and not serves(row.camera)]
        if lost:
            self.passed_over = min(self.passed_over or lost[0].id, lost[0].id)
            self.foreign.update(row.camera for row in lost)
            self.handed = deque(row for row in self.handed if row.stored or serves(row.camera))

    def finish(self) -> None:
        """Everything was looked at and is in Kafka: the mark of all cameras may say so."""
        if self.passed_over is None and self.up_to.get(_ALL, 0) < self.position:
            self.up_to[_ALL] = self.position
            self.unsaved.add(_ALL)

    def advance(self) -> None:
        """Move the marks over what is in Kafka without a gap."""
        while self.handed and self.handed[0].stored:
            row = self.handed.popleft()
            camera = row.camera if self.passed_over is not None and row.id > self.passed_over else _ALL
            self.up_to[camera] = row.id
            self.unsaved.add(camera)


class JournalBacklog:
    """What the journal has and Kafka has not: a `Backlog`.

    One bridge at a time drains a journal, whoever has the lock beside the file. The other methods wait for nobody.

    Concurrency: `next` and `done` on the thread that writes to the sink; the rest from any.

    Args:
        path: the journal's file, which is there.
        serves: whether a camera's rows may go through this bridge now.
        retention: how long the journal keeps what Kafka has got; what it has not got stays.
        clock: time.
    """

    def __init__(
        self,
        path: Path,
        *,
        serves: Callable[[str], bool] = lambda _camera: True,
        retention: RetentionSettings | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._database = journal_database(path)
        self._serves = serves
        self._clock: Clock = clock or SystemClock()
        self._progress = {table: _Progress() for table in _TABLES}
        self._by_key: dict[tuple[Table, str, bytes], _Handed] = {}
        self._newest: dict[Table, int] = {}
        self._waiting = 0
        self._sent = 0
        self._busy = False
        self._saved_at_s = float("-inf")
        self._lock_file = path.with_name(f"{path.name}.drain")
        self._lock: int | None = None
        self._look_at_s = float("-inf")
        self._log = get_logger(path=str(path))
        self._retention = (
            Retention(self._database, retention, deletable=drained_up_to, clock=self._clock) if retention else None
        )

    def open(self) -> None:
        """Begin with retention; `next` opens the rest."""
        if self._retention is not None:
            self._retention.start()

    def close(self) -> None:
        """End, and let another bridge go on."""
        if self._retention is not None:
            self._retention.close()
        if self._lock is not None:
            with contextlib.suppress(TransientError, PermanentError):  # it is sent again, and recognised
                self._save()
        self._let_go()
        self._database.close()

    @property
    def waiting(self) -> int:
        """Rows that Kafka has not got yet."""
        return max(0, self._waiting)

    def serves(self, camera: str) -> bool:
        """Whether rows of this camera may go out now; those that were handed out and may not are handed out again."""
        return self._serves(camera)

    def next(self, rows_max: int) -> list[Record]:
        """The next rows; none where none is left that this bridge may send now, or another one drains.

        A journal that cannot be read holds nothing up: it is tried again later.
        """
        if self._clock.monotonic_s() < self._look_at_s:
            return []
        try:
            return self._next(rows_max)
        except TransientError as error:
            self._put_off(error)
        except PermanentError as error:
            self._give_up(error)
        return []

    def _next(self, rows_max: int) -> list[Record]:
        if not self._begin():
            self._look_at_s = self._clock.monotonic_s() + _LOOK_EVERY_S
            return []
        self._save_sometimes()
        for progress in self._progress.values():
            progress.drop(self._serves)
        for table, progress in self._progress.items():
            if progress.position < self._newest[table]:
                return self._next_of(table, progress, rows_max)
        self._rest()
        return []

    def _begin(self) -> bool:
        """Whether this bridge drains: it has the lock, or there is something to drain and nobody else has it."""
        if self._lock is not None:
            return True
        with self._database.reading() as db:
            if not self._has_news(db) or not self._take():
                return False
            self._restart(db)
        return True

    def _has_news(self, db: sqlite3.Connection) -> bool:
        """Whether rows came, or a camera's that was passed over is this bridge's now."""
        newest = {table: _newest(db, table) for table in _TABLES}
        news = newest != self._newest
        self._newest = newest
        return news or any(self._serves(camera) for one in self._progress.values() for camera in one.foreign)

    def _restart(self, db: sqlite3.Connection) -> None:
        self._waiting = self._sent = 0
        for table, progress in self._progress.items():
            rows = db.execute("SELECT camera, up_to FROM drained WHERE kind = ?", (table,))
            progress.restart(dict(rows.fetchall()))
            self._waiting += _rows_after(db, table, progress.position)

    def _next_of(self, table: Table, progress: _Progress, rows_max: int) -> list[Record]:
        before = progress.position
        try:
            with self._database.reading() as db:
                wanted = self._wanted(db, table, progress, rows_max)
                found = _read(db, table, wanted, self._clock.monotonic_s())
        except TransientError:
            progress.position = before
            raise
        if found and not self._busy:
            self._busy = True
            self._log.info("drain.started", waiting=self._waiting)
        for row, record in found:
            handed = _Handed(row, record.camera)
            progress.handed.append(handed)
            self._by_key[table, *record.key] = handed
        if len(found) < len(wanted):
            # Their bytes were enough: the rest is looked at again.
            progress.position = found[-1][0]
        return [record for _, record in found]

    def _wanted(self, db: sqlite3.Connection, table: Table, progress: _Progress, rows_max: int) -> list[int]:
        """Ids of the next rows that are to be sent; the payloads are left alone."""
        found = db.execute(
            f"SELECT id, camera FROM {table} WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608 - a constant
            (progress.position, _ROWS_SEEN),
        ).fetchall()
        if not found:
            progress.position = self._newest[table]
        wanted: list[int] = []
        for row, camera in found:
            if len(wanted) == rows_max:
                break
            if row <= progress.up_to.get(camera, 0):
                progress.position = row
                self._waiting -= 1
            elif progress.wants(row, camera, serves=self._serves(camera)):
                wanted.append(row)
        return wanted

    def done(self, stored: Sequence[tuple[Record, StoredAt]]) -> None:
        """Kafka, or the quarantine, has these; note how far that brings it."""
        for record, _ in stored:
            handed = self._by_key.pop((record.table, *record.key), None)
            if handed is not None:
                handed.stored = True
                self._waiting -= 1
                self._sent += 1
        for progress in self._progress.values():
            progress.advance()
        try:
            self._save_sometimes()
        except TransientError as error:
            self._put_off(error)
        except PermanentError as error:
            self._give_up(error)

    def _save_sometimes(self) -> None:
        now_s = self._clock.monotonic_s()
        is_due = now_s - self._saved_at_s >= _SAVE_EVERY_S
        if is_due and any(progress.unsaved for progress in self._progress.values()):
            self._saved_at_s = now_s
            self._save()

    def _save(self) -> None:
        marks = [
            (table, camera, progress.up_to[camera])
            for table, progress in self._progress.items()
            for camera in progress.unsaved
        ]
        if not marks:
            return
        with self._database.writing("FULL") as db:
            db.executemany("INSERT OR REPLACE INTO drained (kind, camera, up_to) VALUES (?,?,?)", marks)
            db.execute(
                "DELETE FROM drained WHERE camera != '' AND up_to <= "
                "(SELECT total.up_to FROM drained AS total WHERE total.kind = drained.kind AND total.camera = '')"
            )
        for progress in self._progress.values():
            progress.unsaved.clear()

    def _rest(self) -> None:
        """Everything was handed out: once Kafka has it, say so, and let another bridge look."""
        if any(progress.handed for progress in self._progress.values()):
            return
        for progress in self._progress.values():
            progress.finish()
        self._save()
        if self._busy:
            self._busy = False
            self._log.info("drain.finished", sent=self._sent, waiting=self._waiting)
        self._look_at_s = self._clock.monotonic_s() + _LOOK_EVERY_S
        self._let_go()

    def _put_off(self, error: TransientError) -> None:
        self._look_at_s = self._clock.monotonic_s() + _AFTER_ERROR_S
        self._log.warning("drain.delayed", error=str(error), waiting=self._waiting)

    def _give_up(self, error: PermanentError) -> None:
        """The journal cannot be used: what is live goes on without it."""
        self._look_at_s = float("inf")
        self._log.error("drain.ended", error=str(error), waiting=self._waiting)
        self._let_go()

    def _take(self) -> bool:
        try:
            descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise TransientError(
                f"{self._lock_file} cannot be opened: {error}; check the rights of its folder"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            self._newest.clear()
            return False
        self._lock = descriptor
        return True

    def _let_go(self) -> None:
        if self._lock is not None:
            with contextlib.suppress(OSError):
                os.close(self._lock)
            self._lock = None


def _newest(db: sqlite3.Connection, table: Table) -> int:
    return int(db.execute(f"SELECT coalesce(max(id), 0) FROM {table}").fetchone()[0])  # noqa: S608 - a constant


def _rows_after(db: sqlite3.Connection, table: Table, place: int) -> int:
    """How many rows there are after one. They are numbered without gaps, and only the first are ever deleted."""
    first, last = db.execute(f"SELECT coalesce(min(id), 1), coalesce(max(id), 0) FROM {table}").fetchone()  # noqa: S608 - a constant
    return int(max(0, last - max(place, first - 1)))


def drained_up_to(db: sqlite3.Connection, table: Table) -> int:
    """The row up to which everything is in Kafka."""
    row = db.execute("SELECT up_to FROM drained WHERE kind = ? AND camera = ''", (table,)).fetchone()
    return int(row[0]) if row else 0


def _read(db: sqlite3.Connection, table: Table, places: Sequence[int], received_s: float) -> list[tuple[int, Record]]:
    """Rows as records, in order; not all of them when their pictures are many."""
    marks = ",".join("?" * len(places))
    columns = ", ".join(("id", *COMMON, AT[table], "payload", *DETAILS[table]))
    found: list[tuple[int, Record]] = []
    size_bytes = 0
    rows = db.execute(f"SELECT {columns} FROM {table} WHERE id IN ({marks}) ORDER BY id", places)  # noqa: S608
    for row, event_id, digest, origin, epoch, seq, site, camera, at, payload, *details in rows:
        record = Record(
            stream=details[0] if table == "event" else ESCALATIONS[0].name,
            event_id=event_id,
            origin=origin,
            epoch=epoch,
            seq=seq,
            site=site,
            camera=camera,
            at=at,
            details=dict(zip(DETAILS[table], details, strict=True)),
            payload=payload,
            received_s=received_s,
            _digest=digest,
        )
        found.append((row, record))
        size_bytes += len(payload)
        if size_bytes >= _BYTES_AT_ONCE:
            break
    rows.close()
    return found
