"""What the outbox writes: transactions on its file, each whole or not at all."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from broker.outbox_file import open_file, split_row, translated
from config.errors import PermanentError, VigilError

__all__ = ["Gathered", "OutboxStore", "OutboxStream", "Removed"]

_OPEN_EVENTS_MAX = 10_000
"""Who never closes what it opened must not fill the disk with it."""
_RELEASED_AT_ONCE = 5_000
_CHECK_EVERY_S = 0.1
_RAN_STORED_EVERY_S = 60.0
_KEPT_PAGES = 1_000
_VACUUM_PAGES = 4_000
_WAL_BYTES_MAX = 16_000_000


@dataclass(slots=True)
class OutboxStream:
    """One sequence, as far as it is known now.

    Attributes:
        id: its number in the file.
        priority: the lower, the sooner its messages go.
        durable: its messages wait for their receipt for ever.
        last_seq: the newest, also when it is not yet on disk.
        stored_seq: the newest on disk.
        rows: messages that wait.
        size_bytes: their payload bytes.
    """

    id: int
    name: str
    epoch: str
    priority: int
    durable: bool
    last_seq: int = 0
    stored_seq: int = 0
    rows: int = 0
    size_bytes: int = 0


@dataclass(slots=True)
class Gathered:
    """What goes to the disk in one transaction.

    Attributes:
        entries: row id, topic, time of the put, SHA-256 of the payload, payload.
        opened: event id, topic and payload of starts.
        closed: event ids of starts that have an end.
        grown: by stream, its newest sequence and by how many rows and bytes it grew.
        done: it is on disk, or `error` says why not.
    """

    entries: list[tuple[int, str, float, bytes, bytes]] = field(default_factory=list)
    opened: list[tuple[str, str, bytes]] = field(default_factory=list)
    closed: list[tuple[str]] = field(default_factory=list)
    grown: dict[str, OutboxStream] = field(default_factory=dict)
    done: bool = False
    error: VigilError | None = None


Removed = Mapping[int, tuple[int, int]]
"""Rows and bytes that went, by stream id."""


class OutboxStore:
    """The connection that writes, made anew after every failure.

    Concurrency: one caller at a time.

    Args:
        path: the file.
        origin: whose outbox it is.
    """

    def __init__(self, path: Path, origin: str) -> None:
        self._path = path
        self._origin = origin
        self._db: sqlite3.Connection | None = None
        self._inode = 0
        self._synchronous = ""
        self._ran_s = 0.0
        self._checked_s = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the last transaction went well."""
        return self._db is not None

    def open(self) -> tuple[list[OutboxStream], float]:
        """Open the file, and read how far it came.

        Returns:
            Its streams, and the seconds that it was ever in use.

        Raises:
            PermanentError: it is damaged, of another kind, version or origin, or may not be written.
            TransientError: the disk is full or fails.
        """
        db = open_file(self._path, self._origin)
        try:
            with translated(self._path):
                db.execute(f"PRAGMA journal_size_limit={_WAL_BYTES_MAX}")
                columns = "id, name, epoch, priority, durable, last_seq, last_seq, rows, size_bytes"
                rows = db.execute(f"SELECT {columns} FROM stream").fetchall()  # noqa: S608 - a constant
                (self._ran_s,) = db.execute("SELECT ran_s FROM outbox").fetchone()
                self._inode, self._synchronous = self._path.stat().st_ino, ""
        except VigilError:
            db.close()
            raise
        self._db = db
        return [OutboxStream(*row) for row in rows], self._ran_s

    def close(self) -> None:
        """Close the file."""
        if self._db is not None:
            self._db.close()
            self._db = None

    @contextmanager
    def _transaction(self, *, synchronous: str) -> Iterator[sqlite3.Connection]:
        db = self._db
        assert db is not None, "open it first"  # noqa: S101 - the caller's duty
        try:
            with translated(self._path):
                self._check_in_place()
                if synchronous != self._synchronous:
                    db.execute(f"PRAGMA synchronous={synchronous}")
                    self._synchronous = synchronous
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")
        except VigilError:
            # After a failed write SQLite may refuse every further one on the same connection; and only the file knows
            # whether a commit that failed at its very end is there all the same.
            self.close()
            raise

    def _check_in_place(self) -> None:
        """A deleted file can still be written to, and everything in it is gone with the process.

        Not at every transaction: each look is a system call, and what else waits for the interpreter gets in between.
        """
        now_s = time.monotonic()
        if now_s < self._checked_s + _CHECK_EVERY_S:
            return
        self._checked_s = now_s
        try:
            in_place = self._path.stat().st_ino == self._inode
        except FileNotFoundError:
            in_place = False
        if not in_place:
            raise PermanentError(
                f"outbox {self._path} was moved or deleted while it is in use: start this process again; what waited "
                "went with the file"
            )

    def write(
        self, gathered: Gathered, settled: Sequence[tuple[int, bytes]], held: Sequence[int], ran_s: float
    ) -> Removed:
        """Store what has gathered, forget what is settled, note what the broker has.

        Args:
            gathered: what to store.
            settled: rows, each with the SHA-256 of the payload that somebody else has; another payload stays.
            held: rows of events that the broker has.
            ran_s: seconds that the outbox was ever in use.

        A settle that a power cut takes back costs a repeat, which the sink recognises by its id: where there is
        nothing to store, nothing is flushed.

        Raises:
            PermanentError: the file is damaged, or was moved away.
            TransientError: the disk did not take it.
        """
        with self._transaction(synchronous="FULL" if gathered.entries else "NORMAL") as db:
            if gathered.entries or gathered.closed:
                _insert(db, gathered)
            removed = _remove(db, settled)
            if held:
                query = "UPDATE entry SET held_s = ? WHERE id = ? AND held_s IS NULL"
                db.executemany(query, [(ran_s, row) for row in held])
            if ran_s >= self._ran_s + _RAN_STORED_EVERY_S or held:
                db.execute("UPDATE outbox SET ran_s = ?", (ran_s,))
                self._ran_s = ran_s
        return removed

    def release_oldest(self, rows: int, size_bytes: int, spare: int) -> Removed:
        """Release the events that the broker has had for longest; none at all where that is not enough.

        Args:
            rows: at least so many must go,
            size_bytes: and at least so many bytes.
            spare: rows that go on top of what must.

        Raises:
            PermanentError: the file is damaged, or was moved away.
            TransientError: the disk did not take it.
        """
        query = "SELECT id, sha256, length(payload) FROM entry WHERE held_s IS NOT NULL ORDER BY held_s, id"
        found: list[tuple[int, bytes]] = []
        freed = 0
        with self._transaction(synchronous="NORMAL") as db:
            for row, sha256, size in db.execute(query):
                if len(found) >= rows + spare and freed >= size_bytes:
                    break
                found.append((row, sha256))
                freed += size
            is_enough = len(found) >= rows and freed >= size_bytes
            return _release(db, found) if is_enough else {}

    def release_due(self, held_before_s: float) -> Removed:
        """Release events that the broker has had since before then, in seconds of use; some thousands at once.

        Raises:
            PermanentError: the file is damaged, or was moved away.
            TransientError: the disk did not take it.
        """
        query = "SELECT id, sha256 FROM entry WHERE held_s <= ? ORDER BY held_s, id LIMIT ?"
        with self._transaction(synchronous="NORMAL") as db:
            return _release(db, db.execute(query, (held_before_s, _RELEASED_AT_ONCE)).fetchall())

    def oldest_held_s(self) -> float | None:
        """Since when, in seconds of use, the broker has had the event that it has had for longest."""
        if self._db is None:
            return None
        with translated(self._path):
            (since_s,) = self._db.execute("SELECT min(held_s) FROM entry WHERE held_s IS NOT NULL").fetchone()
        return None if since_s is None else float(since_s)

    def give_back(self) -> bool:
        """Give the disk some of what an emptied outbox no longer needs; True when there is more.

        Raises:
            PermanentError: the file is damaged.
            TransientError: the disk fails.
        """
        assert self._db is not None, "open it first"  # noqa: S101 - the caller's duty
        with translated(self._path):
            (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
            if free > _KEPT_PAGES:
                # As a script: `execute` takes one step of a statement without columns, which is one page.
                self._db.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES});")
        return bool(free > _KEPT_PAGES + _VACUUM_PAGES)


def _insert(db: sqlite3.Connection, gathered: Gathered) -> None:
    db.executemany(
        "INSERT INTO stream VALUES (?,?,?,?,?,?,?,?) ON CONFLICT (id) DO UPDATE SET priority = excluded.priority, "
        "durable = excluded.durable, last_seq = excluded.last_seq, rows = rows + excluded.rows, "
        "size_bytes = size_bytes + excluded.size_bytes",
        [
            (s.id, s.name, s.epoch, s.priority, int(s.durable), s.last_seq, s.rows, s.size_bytes)
            for s in gathered.grown.values()
        ],
    )
    db.executemany("INSERT INTO entry (id, topic, put_at, sha256, payload) VALUES (?,?,?,?,?)", gathered.entries)
    if gathered.opened:
        db.executemany("INSERT INTO open_event (event_id, topic, payload) VALUES (?,?,?)", gathered.opened)
        db.execute("DELETE FROM open_event WHERE id <= (SELECT max(id) FROM open_event) - ?", (_OPEN_EVENTS_MAX,))
    if gathered.closed:
        db.executemany("DELETE FROM open_event WHERE event_id = ?", gathered.closed)


def _remove(db: sqlite3.Connection, rows: Iterable[tuple[int, bytes]]) -> Removed:
    query = "DELETE FROM entry WHERE id = ? AND sha256 = ? RETURNING length(payload)"
    removed: dict[int, tuple[int, int]] = {}
    for row, sha256 in rows:
        gone = db.execute(query, (row, sha256)).fetchone()
        if gone is not None:
            stream, _ = split_row(row)
            count, size = removed.get(stream, (0, 0))
            removed[stream] = (count + 1, size + gone[0])
    if not removed:
        return removed
    db.executemany(
        "UPDATE stream SET rows = rows - ?, size_bytes = size_bytes - ? WHERE id = ?",
        [(count, size, stream) for stream, (count, size) in removed.items()],
    )
    return removed


def _release(db: sqlite3.Connection, rows: Sequence[tuple[int, bytes]]) -> Removed:
    """Remove, and remember as ranges."""
    for first, last in _ranges(sorted(row for row, _ in rows)):
        stream, first_seq = split_row(first)
        _, last_seq = split_row(last)
        left = db.execute(
            "DELETE FROM released WHERE stream = ? AND first < ? AND last = ? RETURNING first",
            (stream, first_seq, first_seq - 1),
        ).fetchone()
        right = db.execute(
            "DELETE FROM released WHERE stream = ? AND first = ? RETURNING last", (stream, last_seq + 1)
        ).fetchone()
        joined = (stream, left[0] if left else first_seq, right[0] if right else last_seq)
        db.execute("INSERT INTO released VALUES (?,?,?)", joined)
    return _remove(db, rows)


def _ranges(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Runs of neighbours; streams lie so far apart that none spans two."""
    for _, run in groupby(enumerate(rows), key=lambda item: item[1] - item[0]):
        neighbours = [row for _, row in run]
        yield neighbours[0], neighbours[-1]
