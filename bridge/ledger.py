"""The ledger: what Kafka has, on disk, so that a re-sent escalation or event is answered and not produced again.

Kafka cannot say whether it holds a message, and an idempotent producer forgets with its process. So the delivery report
is noted here before the receipt goes out. Between Kafka's report and this note lies the one instant in which a crash
makes a repeat: that mode is called at-least-once.

Records that Kafka will never take, not even as dead letters, are kept here too, in the quarantine, whole and with the
reason.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from bridge._sqlite import Database, open_read_only, translated
from bridge.marks import MARK_SCHEMA, Marks
from bridge.sink import Record, StoredAt, Table, utc_text
from config import Clock, SystemClock

__all__ = ["Ledger", "Quarantined", "read_quarantine"]

_WHAT = "the ledger"
_VERSION = 3
_DELIVERED: Mapping[Table, str] = {"escalation": "delivered_escalation", "event": "delivered_event"}
"""Apart, so that a flood of events makes it forget no escalation."""
_DELIVERED_SCHEMA = """
CREATE TABLE IF NOT EXISTS {name} (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL,
    digest BLOB NOT NULL,
    location TEXT NOT NULL,
    delivered_at TEXT NOT NULL,
    UNIQUE (event_id, digest)
) STRICT;
"""
_SCHEMA = f"""
{"".join(_DELIVERED_SCHEMA.format(name=name) for name in _DELIVERED.values())}
CREATE TABLE IF NOT EXISTS quarantined (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    stream TEXT NOT NULL,
    event_id TEXT NOT NULL,
    digest BLOB NOT NULL,
    bus_topic TEXT NOT NULL,
    code TEXT NOT NULL,
    reason TEXT NOT NULL,
    stored_at TEXT NOT NULL,
    payload BLOB NOT NULL,
    UNIQUE (event_id, digest)
) STRICT;
{MARK_SCHEMA}
"""
_ROWS_AT_ONCE = 500
"""Rows in one statement: each lets the other threads in and waits for its turn again, which costs more than a row."""
_PRUNE_EVERY = 1_000


_Key = tuple[str, bytes]


class Ledger:
    """What was delivered, and records that cannot be.

    Concurrency: every method may be called from any thread.

    Args:
        path: the file; made with its folder when missing.
        sink: the name of the sink whose deliveries these are.
        rows_max: escalations that are remembered, and events; an outbox holds 200,000 unless told otherwise.
        age_max: how long; an outbox is settled long before.
        clock: time.
    """

    def __init__(
        self,
        path: Path,
        *,
        sink: str = "kafka",
        rows_max: int = 1_000_000,
        age_max: timedelta = timedelta(days=30),
        clock: Clock | None = None,
    ) -> None:
        self._database = Database(path, _SCHEMA, what=_WHAT, version=_VERSION)
        self._sink = sink
        self._rows_max = rows_max
        self._age_max = age_max
        self._clock: Clock = clock or SystemClock()
        self._marks = Marks()
        self._noting = threading.Lock()
        self._since_prune = 0

    def open(self) -> None:
        """Open the file.

        Raises:
            TransientError: the disk is full or fails.
            PermanentError: the file is damaged, of another kind, or may not be written.
        """
        with self._database.reading() as db:
            self._marks.load(db)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def gaps(self) -> Counter[tuple[str, str]]:
        """How many sequences were never finished, by line of the contract and origin; see `Marks`."""
        return self._marks.gaps()

    def known(self, records: Sequence[Record]) -> dict[_Key, StoredAt]:
        """Where those of these records landed that are finished, by their keys.

        Raises:
            TransientError: the disk cannot be read now.
            PermanentError: the file is damaged.
        """
        found: dict[_Key, StoredAt] = {}
        records = self._marks.perhaps_stored(records)
        if not records:
            return found
        with self._database.reading() as db:
            for table, name in _DELIVERED.items():
                event_ids = [record.event_id for record in records if record.table == table]
                for start in range(0, len(event_ids), _ROWS_AT_ONCE):
                    found |= self._known(db, name, event_ids[start : start + _ROWS_AT_ONCE])
        return found

    def _known(self, db: sqlite3.Connection, name: str, event_ids: Sequence[str]) -> dict[_Key, StoredAt]:
        marks = ",".join("?" * len(event_ids))
        rows = db.execute(
            f"SELECT event_id, digest, location, delivered_at, 0 FROM {name} WHERE event_id IN ({marks}) "  # noqa: S608
            f"UNION ALL SELECT event_id, digest, '', stored_at, id FROM quarantined WHERE event_id IN ({marks})",
            (*event_ids, *event_ids),
        )
        return {
            (event_id, digest): self._in_quarantine(quarantined, datetime.fromisoformat(at), repeated=True)
            if quarantined
            else StoredAt(self._sink, location, datetime.fromisoformat(at), repeated=True)
            for event_id, digest, location, at, quarantined in rows
        }

    def add(self, delivered: Sequence[tuple[Record, str]]) -> datetime:
        """Note records and where they landed; a process that dies after this still knows them.

        Not flushed to the disk: after a power cut the last ones may be forgotten, and are repeats if sent again.

        Returns:
            The time that was noted.

        Raises:
            TransientError: the disk did not take them; none is noted.
            PermanentError: the file is damaged.
        """
        now = self._clock.now()
        with self._noting:
            with self._database.writing("NORMAL") as db:
                for table, name in _DELIVERED.items():
                    some = [(record, location) for record, location in delivered if record.table == table]
                    _note(db, name, some, utc_text(now))
                changed = self._marks.advance(db, [record for record, _ in delivered])
                self._since_prune += len(delivered)
                if self._since_prune >= _PRUNE_EVERY:
                    self._prune(db, now)
            self._marks.accept(changed)
        return now

    def quarantine(self, record: Record, code: str, reason: str) -> StoredAt:
        """Keep a record that the sink will never take; flushed to the disk when this returns.

        Raises:
            TransientError: the disk did not take it.
            PermanentError: the file is damaged.
        """
        now = self._clock.now()
        row = (*record.key, record.stream, record.bus_topic, code, reason, utc_text(now), record.payload)
        with self._noting:
            with self._database.writing("FULL") as db:
                db.execute(
                    "INSERT INTO quarantined (event_id, digest, stream, bus_topic, code, reason, stored_at, payload) "
                    "VALUES (?,?,?,?,?,?,?,?) ON CONFLICT (event_id, digest) DO NOTHING",
                    row,
                )
                where = "SELECT id FROM quarantined WHERE event_id = ? AND digest = ?"
                (place,) = db.execute(where, record.key).fetchone()
                changed = self._marks.advance(db, [record])
            self._marks.accept(changed)
        return self._in_quarantine(place, now)

    def _in_quarantine(self, place: int, at: datetime, *, repeated: bool = False) -> StoredAt:
        return StoredAt("quarantine", f"{self._database.path.name}/quarantined/{place}", at, repeated)

    def _prune(self, db: sqlite3.Connection, now: datetime) -> None:
        self._since_prune = 0
        too_old = utc_text(now - self._age_max)
        for name in _DELIVERED.values():
            db.execute(f"DELETE FROM {name} WHERE id <= (SELECT max(id) FROM {name}) - ?", (self._rows_max,))  # noqa: S608
            oldest = f"SELECT id, delivered_at FROM {name} ORDER BY id LIMIT ?"  # noqa: S608 - constants only
            first = db.execute(oldest, (1,)).fetchone()
            # Looked at first: going through the oldest each time would cost as much as noting the newest.
            if first is not None and first[1] < too_old:
                db.execute(
                    f"DELETE FROM {name} WHERE id IN (SELECT id FROM ({oldest}) WHERE delivered_at < ?)",  # noqa: S608
                    (2 * _PRUNE_EVERY, too_old),
                )


def _note(db: sqlite3.Connection, name: str, delivered: Sequence[tuple[Record, str]], noted_at: str) -> None:
    for start in range(0, len(delivered), _ROWS_AT_ONCE):
        some = delivered[start : start + _ROWS_AT_ONCE]
        rows = ",".join(["(?,?,?,?)"] * len(some))
        db.execute(
            f"INSERT INTO {name} (event_id, digest, location, delivered_at) VALUES {rows} "  # noqa: S608
            "ON CONFLICT (event_id, digest) DO NOTHING",
            [value for record, location in some for value in (*record.key, location, noted_at)],
        )


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A record in the quarantine.

    Attributes:
        place: its row.
        stream: its line of the contract.
        event_id: empty where the record has none that can be read.
        bus_topic: where on the bus it came.
        code: what kind of error kept it out, in a word,
        reason: and in a sentence.
        at: when it was put here, as `utc_text` writes it.
        payload: as it came.
    """

    place: int
    stream: str
    event_id: str
    bus_topic: str
    code: str
    reason: str
    at: str
    payload: bytes


def read_quarantine(path: Path) -> list[Quarantined]:
    """All that is in the quarantine of a ledger, oldest first, also while a bridge uses it.

    Raises:
        PermanentError: there is no such file, or it is no ledger.
    """
    columns = "id, stream, event_id, bus_topic, code, reason, stored_at, payload"
    with translated(_WHAT, path), closing(open_read_only(path, what=_WHAT, version=_VERSION)) as db:
        rows = db.execute(f"SELECT {columns} FROM quarantined ORDER BY id").fetchall()  # noqa: S608 - a constant
    return [Quarantined(*row) for row in rows]
