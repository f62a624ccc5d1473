"""The journal: escalations in one SQLite file, the sink of a mesh without Kafka.

Everything that waits goes into one transaction, so that one flush of the disk pays for many escalations. An id that is
there already is not stored again, so that a re-sent escalation is one row.

The file can be read with `sqlite3`: times are text, and `payload` is the JSON as it came, pictures included. It is the
last column: SQLite reads a row's pages in order, so a listing never touches the pictures.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bridge._sqlite import Database, open_read_only, translated
from bridge.sink import OnStored, Record, StoredAt, utc_text
from config import Clock, SystemClock

__all__ = ["Entry", "Journal", "JournalReader"]

_WHAT = "the journal"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS escalation (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL UNIQUE,
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
    payload BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS escalation_raised ON escalation (raised_at);
"""
_COLUMNS = (
    "event_id, origin, epoch, seq, site, camera, rule, kind, severity, summary, label, score, "
    "captured_at, raised_at, stored_at, drill, payload"
)
_ROW = f"({', '.join('?' * (_COLUMNS.count(',') + 1))})"
_ROWS_AT_ONCE = 128
"""Rows in one statement. Each statement lets the other threads in and then waits for its turn again, which costs more
than the row itself; SQLite takes 32,766 variables."""
_LISTED = (
    "id, event_id, origin, epoch, seq, site, camera, rule, kind, severity, summary, label, score, "
    "captured_at, raised_at, stored_at, drill"
)


class Journal:
    """The journal as a sink.

    Concurrency: one thread writes; `close` may come from another.

    Args:
        path: the file; made with its folder when missing.
        clock: time.
    """

    name = "journal"

    def __init__(self, path: Path, *, clock: Clock | None = None) -> None:
        self._database = Database(path, _SCHEMA, what=_WHAT)
        self._clock: Clock = clock or SystemClock()
        self._on_stored: OnStored = lambda _stored: None

    def open(self, on_stored: OnStored) -> None:
        """Open the file.

        Raises:
            TransientError: the disk is full or fails.
            PermanentError: the file is damaged, of another kind, or may not be written.
        """
        self._on_stored = on_stored
        self._database.open()

    def write(self, records: Sequence[Record]) -> int:
        """Store records in one transaction, and report them.

        Raises:
            TransientError: the disk did not take them; none is stored.
            PermanentError: the file is damaged; none is stored.
        """
        now = self._clock.now()
        stored_at = utc_text(now)
        with self._database.writing("FULL") as db:
            known = _places(db, records)
            fresh = {record.event_id: record for record in records if record.event_id not in known}
            places = known | _insert(db, list(fresh.values()), stored_at)
        stored = []
        for record in records:
            # Only the first of two in one batch is the one that was stored.
            is_fresh = fresh.pop(record.event_id, None) is not None
            place = f"journal/{places[record.event_id]}"
            stored.append((record, StoredAt(self.name, place, now, repeated=not is_fresh)))
        self._on_stored(stored)
        return len(records)

    def close(self, timeout_s: float = 0.0) -> None:
        """Close the file; everything taken is in it."""
        del timeout_s
        self._database.close()


def _places(db: sqlite3.Connection, records: Sequence[Record]) -> dict[str, int]:
    """The rows of those that are there already, by event id."""
    found: dict[str, int] = {}
    for some in _chunks(records):
        marks = ",".join("?" * len(some))
        query = f"SELECT event_id, id FROM escalation WHERE event_id IN ({marks})"  # noqa: S608 - marks only
        found.update(db.execute(query, [record.event_id for record in some]).fetchall())
    return found


def _insert(db: sqlite3.Connection, records: Sequence[Record], stored_at: str) -> dict[str, int]:
    """Store records; their rows by event id. In one transaction the rows of one statement follow one another."""
    places: dict[str, int] = {}
    for some in _chunks(records):
        rows = ",".join([_ROW] * len(some))
        values = [value for record in some for value in _values(record, stored_at)]
        last = db.execute(f"INSERT INTO escalation ({_COLUMNS}) VALUES {rows}", values).lastrowid  # noqa: S608
        first = (last or 0) - len(some) + 1
        places.update({record.event_id: first + number for number, record in enumerate(some)})
    return places


def _chunks(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    for start in range(0, len(records), _ROWS_AT_ONCE):
        yield records[start : start + _ROWS_AT_ONCE]


def _values(record: Record, stored_at: str) -> tuple[str | int | float | bytes, ...]:
    """One row, in the order of the columns."""
    return (
        record.event_id,
        record.origin,
        record.epoch,
        record.seq,
        record.site,
        record.camera,
        record.rule,
        record.kind,
        record.severity,
        record.summary,
        record.label,
        record.score,
        record.captured_at,
        record.raised_at,
        stored_at,
        int(record.drill),
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


class JournalReader:
    """Questions to a journal, also while a bridge writes it.

    Args:
        path: the file.

    Raises:
        PermanentError: there is no such file, or it is no journal.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = open_read_only(path, what=_WHAT)
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
        given = {condition: value for condition, value in wanted.items() if value is not None}
        where = f"WHERE {' AND '.join(given)}" if given else ""
        query = f"SELECT {_LISTED} FROM escalation {where} ORDER BY raised_at DESC, id DESC LIMIT ?"  # noqa: S608
        with translated(_WHAT, self._path):
            rows = self._db.execute(query, (*given.values(), limit)).fetchall()
        return [Entry(**{**row, "drill": bool(row["drill"])}) for row in reversed(rows)]

    def payload(self, place: int) -> bytes:
        """The JSON of one escalation as it came, pictures included."""
        with translated(_WHAT, self._path):
            row = self._db.execute("SELECT payload FROM escalation WHERE id = ?", (place,)).fetchone()
        return bytes(row[0])

    def identities(self) -> Iterator[tuple[str, str, int]]:
        """Origin, epoch and sequence of every escalation, in the order of arrival."""
        with translated(_WHAT, self._path):
            yield from self._db.execute("SELECT origin, epoch, seq FROM escalation ORDER BY id")

    def close(self) -> None:
        """Close the file."""
        self._db.close()
