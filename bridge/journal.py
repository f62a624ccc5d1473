"""The journal: escalations and events in one SQLite file, the sink of a mesh without Kafka.

Everything that waits goes into one transaction, so that one flush of the disk pays for many messages. What is there
already, the same id and the same bytes, is not stored again, so that a re-sent message is one row.

The file can be read with `sqlite3`: times are text, and `payload` is the JSON as it came, pictures included. It is the
last column: SQLite reads a row's pages in order, so a listing never touches the pictures.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bridge._sqlite import Database, open_read_only, translated
from bridge.marks import MARK_SCHEMA, Marks
from bridge.sink import OnStored, Record, StoredAt, Table, utc_text
from broker.topics import CAMERA_ESCALATION
from config import Clock, SystemClock

__all__ = ["Entry", "EventEntry", "Journal", "JournalReader"]

_WHAT = "the journal"
_VERSION = 2
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS escalation (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL,
    digest BLOB NOT NULL,
    origin TEXT NOT NULL,
    epoch TEXT NOT NULL,
    seq INTEGER NOT NULL,
    site TEXT NOT NULL,
    camera TEXT NOT NULL,
    rule TEXT NOT NULL,
    kind TEXT NOT NULL,
    severity TEXT NOT NULL,
    summary TEXT NOT NULL,
    label TEXT NOT NULL,
    score REAL NOT NULL,
    captured_at TEXT NOT NULL,
    raised_at TEXT NOT NULL,
    stored_at TEXT NOT NULL,
    drill INTEGER NOT NULL,
    payload BLOB NOT NULL,
    UNIQUE (event_id, digest)
) STRICT;
CREATE INDEX IF NOT EXISTS escalation_raised ON escalation (raised_at);
CREATE TABLE IF NOT EXISTS event (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL,
    digest BLOB NOT NULL,
    stream TEXT NOT NULL,
    origin TEXT NOT NULL,
    epoch TEXT NOT NULL,
    seq INTEGER NOT NULL,
    site TEXT NOT NULL,
    camera TEXT NOT NULL,
    type TEXT NOT NULL,
    at TEXT NOT NULL,
    stored_at TEXT NOT NULL,
    payload BLOB NOT NULL,
    UNIQUE (event_id, digest)
) STRICT;
CREATE INDEX IF NOT EXISTS event_at ON event (at);
{MARK_SCHEMA}
"""
_COMMON = "event_id, digest, origin, epoch, seq, site, camera"
_DETAILS: Mapping[Table, tuple[str, ...]] = {
    "escalation": ("rule", "kind", "severity", "summary", "label", "score", "captured_at", "drill"),
    "event": ("stream", "type"),
}
_AT: Mapping[Table, str] = {"escalation": "raised_at", "event": "at"}
_COLUMNS = {
    table: f"{_COMMON}, {_AT[table]}, stored_at, {', '.join(details)}, payload" for table, details in _DETAILS.items()
}
_ROWS = {table: f"({', '.join('?' * (columns.count(',') + 1))})" for table, columns in _COLUMNS.items()}
_ROWS_AT_ONCE = 128
"""Rows in one statement. Each statement lets the other threads in and then waits for its turn again, which costs more
than the row itself; SQLite takes 32,766 variables."""
_LISTED = (
    "id, event_id, origin, epoch, seq, site, camera, rule, kind, severity, summary, label, score, "
    "captured_at, raised_at, stored_at, drill"
)
_EVENTS_LISTED = "id, event_id, stream, origin, epoch, seq, site, camera, type, at, stored_at, payload"

T = TypeVar("T")
_Key = tuple[str, bytes]


class Journal:
    """The journal as a sink.

    Concurrency: one thread writes; `close` and `gaps` may come from others.

    Args:
        path: the file; made with its folder when missing.
        clock: time.
    """

    name = "journal"

    def __init__(self, path: Path, *, clock: Clock | None = None) -> None:
        self._database = Database(path, _SCHEMA, what=_WHAT, version=_VERSION)
        self._clock: Clock = clock or SystemClock()
        self._marks = Marks()
        self._on_stored: OnStored = lambda _stored: None

    def open(self, on_stored: OnStored) -> None:
        """Open the file.

        Raises:
            TransientError: the disk is full or fails.
            PermanentError: the file is damaged, of another kind, or may not be written.
        """
        self._on_stored = on_stored
        with self._database.reading() as db:
            self._marks.load(db)

    def write(self, records: Sequence[Record]) -> int:
        """Store records in one transaction, and report them.

        Raises:
            TransientError: the disk did not take them; none is stored.
            PermanentError: the file is damaged; none is stored.
        """
        now = self._clock.now()
        rows: dict[_Key, int] = {}
        fresh: dict[_Key, Record] = {}
        with self._database.writing("FULL") as db:
            for table in _COLUMNS:
                wanted = {record.key: record for record in records if record.table == table}
                known = _rows(db, table, wanted)
                new = {key: record for key, record in wanted.items() if key not in known}
                rows |= known | _insert(db, table, new, utc_text(now))
                fresh |= new
            changed = self._marks.advance(db, fresh.values())
        self._marks.accept(changed)
        stored = []
        for record in records:
            key = record.key
            # Only the first of two in one batch is the one that was stored.
            is_fresh = fresh.pop(key, None) is not None
            stored.append((record, StoredAt(self.name, f"journal/{record.table}/{rows[key]}", now, not is_fresh)))
        self._on_stored(stored)
        return len(records)

    def gaps(self) -> Counter[tuple[str, str]]:
        """How many sequences it lacks between the lowest and the highest it has, by line of the contract and origin."""
        return self._marks.gaps()

    def close(self, timeout_s: float = 0.0) -> None:
        """Close the file; everything taken is in it."""
        del timeout_s
        self._database.close()


def _rows(db: sqlite3.Connection, table: Table, records: Mapping[_Key, Record]) -> dict[_Key, int]:
    """The rows of those that are there already."""
    found: dict[_Key, int] = {}
    for some in _chunks([event_id for event_id, _ in records]):
        marks = ",".join("?" * len(some))
        query = f"SELECT event_id, digest, id FROM {table} WHERE event_id IN ({marks})"  # noqa: S608 - marks only
        found.update({(event_id, digest): row for event_id, digest, row in db.execute(query, some)})
    return found


def _insert(db: sqlite3.Connection, table: Table, records: Mapping[_Key, Record], stored_at: str) -> dict[_Key, int]:
    """Store records; their rows. In one transaction the rows of one statement follow one another."""
    stored: dict[_Key, int] = {}
    for some in _chunks(list(records.items())):
        rows = ",".join([_ROWS[table]] * len(some))
        values = [value for _, record in some for value in _values(table, record, stored_at)]
        statement = f"INSERT INTO {table} ({_COLUMNS[table]}) VALUES {rows}"  # noqa: S608 - constants only
        last = db.execute(statement, values).lastrowid
        first = (last or 0) - len(some) + 1
        stored.update({key: first + number for number, (key, _) in enumerate(some)})
    return stored


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _ROWS_AT_ONCE):
        yield items[start : start + _ROWS_AT_ONCE]


def _values(table: Table, record: Record, stored_at: str) -> tuple[str | int | float | bytes, ...]:
    """One row, in the order of the columns."""
    return (
        record.event_id,
        record.digest,
        record.origin,
        record.epoch,
        record.seq,
        record.site,
        record.camera,
        record.at,
        stored_at,
        *[record.details[name] for name in _DETAILS[table]],
        record.payload,
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """One escalation in the journal, without its payload.

    Attributes:
        id: its place in the journal.
        event_id: ``{origin}:{epoch}:{seq}``.
        captured_at: RFC 3339 in UTC.
        raised_at: RFC 3339 in UTC, by the clock of whoever raised it.
        stored_at: RFC 3339 in UTC, by the bridge's clock.
    """

    id: int
    event_id: str
    origin: str
    epoch: str
    seq: int
    site: str
    camera: str
    rule: str
    kind: str
    severity: str
    summary: str
    label: str
    score: float
    captured_at: str
    raised_at: str
    stored_at: str
    drill: bool


@dataclass(frozen=True, slots=True)
class EventEntry:
    """One event in the journal.

    Attributes:
        id: its place among the journal's events.
        event_id: ``{origin}:{epoch}:{seq}``.
        stream: its line of the contract, such as ``camera_motion``.
        type: ``start``, ``update`` or ``end``.
        at: RFC 3339 in UTC, by the clock of whoever published it.
        stored_at: RFC 3339 in UTC, by the bridge's clock.
        payload: the JSON as it came.
    """

    id: int
    event_id: str
    stream: str
    origin: str
    epoch: str
    seq: int
    site: str
    camera: str
    type: str
    at: str
    stored_at: str
    payload: bytes


class JournalReader:
    """Questions to a journal, also while a bridge writes it.

    Args:
        path: the file.

    Raises:
        PermanentError: there is no such file, or it is no journal.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = open_read_only(path, what=_WHAT, version=_VERSION)
        self._db.row_factory = sqlite3.Row

    def entries(
        self,
        *,
        since: str | None = None,
        camera: str | None = None,
        rule: str | None = None,
        severity: str | None = None,
        limit: int = 100,
    ) -> list[Entry]:
        """The newest escalations that match, oldest first.

        Args:
            since: raised at or after this time, in the journal's form (see `utc_text`).
            camera: only of this camera.
            rule: only of this rule.
            severity: only of this severity.
            limit: at most so many.
        """
        wanted = {"raised_at >= ?": since, "camera = ?": camera, "rule = ?": rule, "severity = ?": severity}
        rows = self._newest("escalation", _LISTED, wanted, limit)
        return [Entry(**{**row, "drill": bool(row["drill"])}) for row in rows]

    def events(
        self, *, since: str | None = None, camera: str | None = None, stream: str | None = None, limit: int = 100
    ) -> list[EventEntry]:
        """The newest events that match, oldest first.

        Args:
            since: happened at or after this time, in the journal's form (see `utc_text`).
            camera: only of this camera.
            stream: only of this line of the contract.
            limit: at most so many.
        """
        wanted = {"at >= ?": since, "camera = ?": camera, "stream = ?": stream}
        return [EventEntry(**row) for row in self._newest("event", _EVENTS_LISTED, wanted, limit)]

    def _newest(
        self, table: Table, columns: str, wanted: Mapping[str, str | None], limit: int
    ) -> list[Mapping[str, Any]]:
        given = {condition: value for condition, value in wanted.items() if value is not None}
        where = f"WHERE {' AND '.join(given)}" if given else ""
        query = f"SELECT {columns} FROM {table} {where} ORDER BY {_AT[table]} DESC, id DESC LIMIT ?"  # noqa: S608
        with translated(_WHAT, self._path):
            rows = self._db.execute(query, (*given.values(), limit)).fetchall()
        return [dict(row) for row in reversed(rows)]

    def payload(self, place: int) -> bytes:
        """The JSON of one escalation as it came, pictures included."""
        with translated(_WHAT, self._path):
            row = self._db.execute("SELECT payload FROM escalation WHERE id = ?", (place,)).fetchone()
        return bytes(row[0])

    def identities(self) -> Iterator[tuple[str, str, str, int]]:
        """Line of the contract, origin, epoch and sequence of everything, in the order of arrival.

        Escalations come first, then events.
        """
        with translated(_WHAT, self._path):
            escalations = "SELECT ?, origin, epoch, seq FROM escalation ORDER BY id"
            yield from map(tuple, self._db.execute(escalations, (CAMERA_ESCALATION.name,)))
            yield from map(tuple, self._db.execute("SELECT stream, origin, epoch, seq FROM event ORDER BY id"))

    def close(self) -> None:
        """Close the file."""
        self._db.close()
