"""The outbox: events and escalations on disk until somebody else provably has them.

One SQLite file a process, write-ahead log, one transaction a message. Each stream of messages (one line of the
contract) has its own epoch, made with the database file, and a sequence that starts at 1 and has no gaps: the
identity of an event is ``{origin}:{epoch}:{seq}``, so that anybody downstream can prove a loss (a gap) or a repeat.

Source: https://sqlite.org/wal.html for what WAL with ``synchronous=FULL`` promises after a power cut.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from config.errors import BacklogFullError, PermanentError, TransientError

__all__ = ["Backlog", "Outbox", "OutboxEntry", "event_id", "read_backlogs", "split_event_id"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS stream (
    name TEXT PRIMARY KEY,
    epoch TEXT NOT NULL UNIQUE,
    last_seq INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS entry (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL UNIQUE,
    stream TEXT NOT NULL REFERENCES stream (name),
    topic TEXT NOT NULL,
    payload BLOB NOT NULL,
    priority INTEGER NOT NULL,
    needs_receipt INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS entry_order ON entry (priority, id);
"""


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """One message that waits.

    Attributes:
        id: its place in the queue.
        event_id: ``{origin}:{epoch}:{seq}``.
        topic: where it goes.
        payload: the bytes.
        needs_receipt: it leaves with the bridge's receipt; otherwise with the broker's PUBACK.
    """

    id: int
    event_id: str
    topic: str
    payload: bytes
    needs_receipt: bool


@dataclass(frozen=True, slots=True)
class Backlog:
    """How far a stream has come, and which of its messages nobody has confirmed.

    Attributes:
        last_seq: sequence of the newest message; as many messages were ever put in.
        waiting: sequences of those that are not confirmed, ascending.
    """

    name: str
    epoch: str
    last_seq: int
    waiting: tuple[int, ...]


def event_id(origin: str, epoch: str, seq: int) -> str:
    """The identity of an event."""
    return f"{origin}:{epoch}:{seq}"


def split_event_id(value: str) -> tuple[str, str, int]:
    """Origin, epoch and sequence of an event's identity.

    Raises:
        ValueError: it is not of the form ``{origin}:{epoch}:{seq}`` with seq at least 1.
    """
    origin, epoch, seq = value.split(":")
    if not origin or not epoch or not (seq.isascii() and seq.isdigit()) or int(seq) < 1:
        raise ValueError(f"{value!r} is not an event id of the form origin:epoch:seq")
    return origin, epoch, int(seq)


class Outbox:
    """A durable queue.

    Concurrency: every method may be called from any thread; one transaction at a time.

    Args:
        path: the database file; made with its folder when missing.
        origin: ``{node}.{role}`` of this process.
        rows_max: messages it holds before `put` refuses.
        bytes_max: payload bytes it holds before `put` refuses.

    Raises:
        PermanentError: the file cannot be opened or is not an outbox.
    """

    def __init__(self, path: Path, *, origin: str, rows_max: int = 200_000, bytes_max: int = 2_000_000_000) -> None:
        self._origin = origin
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=10)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
            row = self._db.execute("SELECT count(*), coalesce(sum(length(payload)), 0) FROM entry").fetchone()
        except (sqlite3.Error, OSError) as error:
            raise PermanentError(
                f"outbox {path} cannot be opened ({error}): check the folder's permissions and free space, "
                "or move the file away if it is damaged"
            ) from error
        self._rows, self._bytes = int(row[0]), int(row[1])

    def put(self, stream: str, topic: str, build: Callable[[str], bytes], *, priority: int, needs_receipt: bool) -> str:
        """Queue one message, on disk when this returns.

        Args:
            stream: the sequence it belongs to.
            topic: where it goes.
            build: makes the payload from the event id; what it raises leaves no gap.
            priority: the lower, the sooner it goes.
            needs_receipt: keep it until `settle`, not only until the broker's PUBACK.

        Returns:
            The event id.

        Raises:
            BacklogFullError: the outbox is full; nothing was queued.
            TransientError: the disk did not take it; it may be full.
        """
        with self._lock:
            try:
                return self._put(stream, topic, build, priority, needs_receipt=needs_receipt)
            except sqlite3.Error as error:
                message = f"the outbox did not take a message for {topic} ({error}): free some disk"
                raise TransientError(message) from error
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def _put(
        self, stream: str, topic: str, build: Callable[[str], bytes], priority: int, *, needs_receipt: bool
    ) -> str:
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("INSERT OR IGNORE INTO stream (name, epoch) VALUES (?, ?)", (stream, secrets.token_hex(4)))
        epoch, seq = self._db.execute(
            "UPDATE stream SET last_seq = last_seq + 1 WHERE name = ? RETURNING epoch, last_seq", (stream,)
        ).fetchone()
        identity = event_id(self._origin, epoch, seq)
        payload = build(identity)
        self._check_room(len(payload))
        self._db.execute(
            "INSERT INTO entry (event_id, stream, topic, payload, priority, needs_receipt) VALUES (?,?,?,?,?,?)",
            (identity, stream, topic, payload, priority, int(needs_receipt)),
        )
        self._db.execute("COMMIT")
        self._rows += 1
        self._bytes += len(payload)
        return identity

    def _check_room(self, size_bytes: int) -> None:
        if self._rows >= self._rows_max or self._bytes + size_bytes > self._bytes_max:
            raise BacklogFullError(
                "the outbox",
                rows=self._rows,
                size_bytes=self._bytes,
                limit=f"{self._rows_max} messages, {self._bytes_max} bytes",
            )

    def waiting(self, limit: int, *, without: Collection[int] = ()) -> list[OutboxEntry]:
        """The next messages to send, by priority and then in order.

        Args:
            limit: at most so many.
            without: ids that are on their way already.
        """
        marks = ",".join(str(int(row_id)) for row_id in without)
        query = (
            "SELECT id, event_id, topic, payload, needs_receipt FROM entry "  # noqa: S608 - integers only
            f"WHERE id NOT IN ({marks}) ORDER BY priority, id LIMIT ?"
        )
        with self._lock:
            rows = self._db.execute(query, (limit,)).fetchall()
        return [OutboxEntry(r[0], r[1], r[2], r[3], bool(r[4])) for r in rows]

    def settle(self, identity: str) -> int | None:
        """Somebody else has this event: forget it.

        Returns:
            Its place in the queue, or None when it was not there (settled before, or not ours).
        """
        with self._lock:
            row = self._db.execute(
                "DELETE FROM entry WHERE event_id = ? RETURNING id, length(payload)", (identity,)
            ).fetchone()
            if row is None:
                return None
            self._rows -= 1
            self._bytes -= int(row[1])
            return int(row[0])

    @property
    def rows(self) -> int:
        """Messages that wait."""
        return self._rows

    @property
    def size_bytes(self) -> int:
        """Payload bytes that wait."""
        return self._bytes

    def close(self) -> None:
        """Close the file; what waits stays for the next process."""
        with self._lock:
            self._db.close()


def read_backlogs(path: Path) -> list[Backlog]:
    """Look into an outbox, also while its process uses it; nothing in it is changed.

    Raises:
        PermanentError: the file cannot be read or is not an outbox.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)) as db:
            db.execute("BEGIN")
            streams = db.execute("SELECT name, epoch, last_seq FROM stream ORDER BY name").fetchall()
            waiting = db.execute("SELECT stream, event_id FROM entry ORDER BY id").fetchall()
    except sqlite3.Error as error:
        raise PermanentError(f"outbox {path} cannot be read ({error})") from error
    sequences: dict[str, list[int]] = {}
    for stream, identity in waiting:
        sequences.setdefault(stream, []).append(split_event_id(identity)[2])
    return [Backlog(name, epoch, last, tuple(sorted(sequences.get(name, ())))) for name, epoch, last in streams]
