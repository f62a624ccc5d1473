"""The journal as a sink: everything that waits goes into one transaction, so that one flush of the disk pays for many.

What is there already, the same id and the same bytes, is not stored again: a re-sent message is one row.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from bridge.journal.retention import Retention
from bridge.journal.schema import AT, COMMON, DETAILS, journal_database
from bridge.marks import Marks
from bridge.sink import OnStored, Record, StoredAt, Table, utc_text
from config import Clock, SystemClock
from config.outside import RetentionSettings

__all__ = ["Journal"]

_COLUMNS = {table: (*COMMON, AT[table], "stored_at", *details, "payload") for table, details in DETAILS.items()}
_ROWS = {table: f"({','.join('?' * len(columns))})" for table, columns in _COLUMNS.items()}
_ROWS_AT_ONCE = 128
"""Rows in one statement. Each statement lets the other threads in and then waits for its turn again, which costs more
than the row itself; SQLite takes 32,766 variables."""

T = TypeVar("T")
_Key = tuple[str, bytes]


class Journal:
    """The journal as a sink.

    Concurrency: one thread writes; `close` and `gaps` may come from others.

    Args:
        path: the file; made with its folder when missing.
        retention: how long it keeps what it has; None: for ever.
        clock: time.
    """

    name = "journal"

    def __init__(self, path: Path, *, retention: RetentionSettings | None = None, clock: Clock | None = None) -> None:
        self._database = journal_database(path)
        self._clock: Clock = clock or SystemClock()
        self._retention = Retention(self._database, retention, clock=self._clock) if retention else None
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
        if self._retention is not None:
            self._retention.start()

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
        if self._retention is not None:
            self._retention.close()
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
        statement = f"INSERT INTO {table} ({', '.join(_COLUMNS[table])}) VALUES {rows}"  # noqa: S608 - constants only
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
        *[record.details[name] for name in DETAILS[table]],
        record.payload,
    )
