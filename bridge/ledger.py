"""The ledger: ids that Kafka has, on disk, so that a re-sent escalation is answered and not produced again.

Kafka cannot say whether it holds an id, and an idempotent producer forgets with its process. So the delivery report is
noted here before the receipt goes out. Between Kafka's report and this note lies the one instant in which a crash
makes a repeat: that mode is called at-least-once.

Records that Kafka will never take are kept here too, in the quarantine, whole and with the reason.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

from bridge._sqlite import Database, open_read_only, translated
from bridge.sink import Record, StoredAt, utc_text
from config import Clock, SystemClock

__all__ = ["Ledger", "read_quarantine"]

_WHAT = "the ledger"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS delivered (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL UNIQUE,
    location TEXT NOT NULL,
    delivered_at TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS quarantined (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL UNIQUE,
    reason TEXT NOT NULL,
    stored_at TEXT NOT NULL,
    site TEXT NOT NULL,
    camera TEXT NOT NULL,
    payload BLOB NOT NULL
) STRICT;
"""
_ROWS_AT_ONCE = 500
"""Rows in one statement: each lets the other threads in and waits for its turn again, which costs more than a row."""
_PRUNE_EVERY = 1_000


class Ledger:
    """Ids already delivered, and records that cannot be.

    Concurrency: every method may be called from any thread.

    Args:
        path: the file; made with its folder when missing.
        sink: the name of the sink whose deliveries these are.
        rows_max: ids that are remembered; an outbox holds 200,000 unless told otherwise.
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
        self._database = Database(path, _SCHEMA, what=_WHAT)
        self._sink = sink
        self._rows_max = rows_max
        self._age_max = age_max
        self._clock: Clock = clock or SystemClock()
        self._since_prune = 0

    def open(self) -> None:
        """Open the file.

        Raises:
            TransientError: the disk is full or fails.
            PermanentError: the file is damaged, of another kind, or may not be written.
        """
        self._database.open()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def known(self, event_ids: Sequence[str]) -> dict[str, StoredAt]:
        """Where those of these ids landed that are finished.

        Raises:
            TransientError: the disk cannot be read now.
            PermanentError: the file is damaged.
        """
        found: dict[str, StoredAt] = {}
        with self._database.reading() as db:
            for start in range(0, len(event_ids), _ROWS_AT_ONCE):
                asked = event_ids[start : start + _ROWS_AT_ONCE]
                marks = ",".join("?" * len(asked))
                rows = db.execute(
                    f"SELECT event_id, location, delivered_at, 0 FROM delivered WHERE event_id IN ({marks}) "  # noqa: S608
                    f"UNION ALL SELECT event_id, '', stored_at, id FROM quarantined WHERE event_id IN ({marks})",
                    (*asked, *asked),
                )
                for event_id, location, at, quarantined in rows:
                    found[event_id] = (
                        self._in_quarantine(quarantined, datetime.fromisoformat(at), repeated=True)
                        if quarantined
                        else StoredAt(self._sink, location, datetime.fromisoformat(at), repeated=True)
                    )
        return found

    def add(self, delivered: Sequence[tuple[str, str]]) -> datetime:
        """Note ids and where they landed; a process that dies after this still knows them.

        Not flushed to the disk: after a power cut the last ones may be forgotten, and are repeats if sent again.

        Returns:
            The time that was noted.

        Raises:
            TransientError: the disk did not take them; none is noted.
            PermanentError: the file is damaged.
        """
        now = self._clock.now()
        noted_at = utc_text(now)
        with self._database.writing("NORMAL") as db:
            for start in range(0, len(delivered), _ROWS_AT_ONCE):
                some = delivered[start : start + _ROWS_AT_ONCE]
                rows = ",".join(["(?,?,?)"] * len(some))
                db.execute(
                    f"INSERT INTO delivered (event_id, location, delivered_at) VALUES {rows} "  # noqa: S608
                    "ON CONFLICT (event_id) DO NOTHING",
                    [value for event_id, location in some for value in (event_id, location, noted_at)],
                )
            self._since_prune += len(delivered)
            if self._since_prune >= _PRUNE_EVERY:
                self._prune(db, now)
        return now

    def quarantine(self, record: Record, reason: str) -> StoredAt:
        """Keep a record that the sink will never take; flushed to the disk when this returns.

        Raises:
            TransientError: the disk did not take it.
            PermanentError: the file is damaged.
        """
        now = self._clock.now()
        with self._database.writing("FULL") as db:
            db.execute(
                "INSERT INTO quarantined (event_id, reason, stored_at, site, camera, payload) VALUES (?,?,?,?,?,?) "
                "ON CONFLICT (event_id) DO NOTHING",
                (record.event_id, reason, utc_text(now), record.site, record.camera, record.payload),
            )
            (place,) = db.execute("SELECT id FROM quarantined WHERE event_id = ?", (record.event_id,)).fetchone()
        return self._in_quarantine(place, now)

    def quarantined(self) -> list[tuple[str, str, bytes]]:
        """Id, reason and payload of every record in the quarantine."""
        with self._database.reading() as db:
            rows = db.execute("SELECT event_id, reason, payload FROM quarantined ORDER BY id").fetchall()
        return [(row[0], row[1], bytes(row[2])) for row in rows]

    def _in_quarantine(self, place: int, at: datetime, *, repeated: bool = False) -> StoredAt:
        return StoredAt("quarantine", f"{self._database.path.name}/quarantined/{place}", at, repeated)

    def _prune(self, db: sqlite3.Connection, now: datetime) -> None:
        self._since_prune = 0
        db.execute("DELETE FROM delivered WHERE id <= (SELECT max(id) FROM delivered) - ?", (self._rows_max,))
        db.execute(
            "DELETE FROM delivered WHERE delivered_at < ? AND id IN (SELECT id FROM delivered ORDER BY id LIMIT ?)",
            (utc_text(now - self._age_max), 2 * _PRUNE_EVERY),
        )


def read_quarantine(path: Path) -> list[str]:
    """The ids in the quarantine of a ledger, also while a bridge uses it.

    Raises:
        PermanentError: there is no such file, or it is no ledger.
    """
    with translated(_WHAT, path), closing(open_read_only(path, what=_WHAT)) as db:
        return [event_id for (event_id,) in db.execute("SELECT event_id FROM quarantined ORDER BY id")]
