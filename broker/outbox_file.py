"""The file of an outbox: its shape, its lock, and how to look into it without changing anything.

An entry's row id is its stream's number and its sequence in one integer: rows lie on the disk in the order in which
they were put, a receipt finds its row without an index, and one range is one stream.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from config import databases
from config.errors import PermanentError, TransientError

__all__ = [
    "SEQ_MAX",
    "Backlog",
    "OpenEvent",
    "OutboxLock",
    "WaitingMessage",
    "event_id",
    "find_holder",
    "open_file",
    "read_backlogs",
    "read_open_events",
    "read_origin",
    "read_waiting",
    "row_id",
    "split_event_id",
    "split_row",
    "translated",
]

_APPLICATION_ID = 0x56474F42
"""What makes a SQLite file an outbox: "VGOB" in its header. Source: https://sqlite.org/pragma.html, application_id."""
_VERSION = 1
_SEQ_BITS = 48
SEQ_MAX = (1 << _SEQ_BITS) - 1
_BUSY_TIMEOUT_S = 10.0
_LOCK_POLL_S = 0.05

_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE outbox (origin TEXT NOT NULL, ran_s REAL NOT NULL) STRICT;
CREATE TABLE stream (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    epoch TEXT NOT NULL UNIQUE,
    priority INTEGER NOT NULL,
    durable INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL
) STRICT;
CREATE TABLE entry (
    id INTEGER PRIMARY KEY,
    topic TEXT NOT NULL,
    put_at REAL NOT NULL,
    held_s REAL,
    sha256 BLOB NOT NULL,
    payload BLOB NOT NULL
) STRICT;
CREATE INDEX entry_held ON entry (held_s, id) WHERE held_s IS NOT NULL;
CREATE TABLE released (
    stream INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    PRIMARY KEY (stream, first)
) STRICT, WITHOUT ROWID;
CREATE TABLE open_event (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL UNIQUE,
    topic TEXT NOT NULL,
    payload BLOB NOT NULL
) STRICT;
PRAGMA application_id={_APPLICATION_ID};
PRAGMA user_version={_VERSION};
"""

_DAMAGED_CURE = (
    "move it away with its -wal file and start again; keep it, what it held may be saved with sqlite3's .recover"
)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


@dataclass(frozen=True, slots=True)
class Backlog:
    """How far a stream has come, and which of its messages nobody has confirmed.

    Attributes:
        last_seq: sequence of the newest message; as many messages were ever put in.
        waiting: sequences of those that are not confirmed, ascending.
        released: ranges, first and last included, of events that were given up after the broker had them.
        size_bytes: payload bytes of those that wait.
        oldest_at: seconds since 1970 at which the oldest that waits was put in, by this machine's clock at that time;
            None when none waits.
    """

    name: str
    epoch: str
    last_seq: int
    waiting: tuple[int, ...]
    released: tuple[tuple[int, int], ...] = ()
    size_bytes: int = 0
    oldest_at: float | None = None


@dataclass(frozen=True, slots=True)
class OpenEvent:
    """An event that has started and not ended.

    Attributes:
        event_id: of its start.
        topic: where its start went.
        payload: its start.
    """

    event_id: str
    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class WaitingMessage:
    """A message that waits, as it will be sent.

    Attributes:
        put_at: seconds since 1970, by this machine's clock at that time.
    """

    stream: str
    event_id: str
    topic: str
    put_at: float
    payload: bytes


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


def row_id(stream: int, seq: int) -> int:
    """The row of a message."""
    return stream << _SEQ_BITS | seq


def split_row(row: int) -> tuple[int, int]:
    """Stream and sequence of a row."""
    return row >> _SEQ_BITS, row & SEQ_MAX


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors and the system's into Vigil's.

    Raises:
        PermanentError: the file is damaged, of another kind, or may not be used.
        TransientError: the disk is full or fails.
    """
    try:
        with databases.translated("outbox", path, damaged_cure=_DAMAGED_CURE):
            yield
    except OSError as error:
        if error.errno in _FULL:
            raise TransientError(f"outbox {path} cannot be opened ({error}): free space on the disk") from error
        raise PermanentError(f"outbox {path} cannot be opened ({error}): check the folder's rights") from error


class OutboxLock:
    """One process an outbox: the system lets go of it however the process ends.

    Args:
        path: the outbox; the lock is a file beside it.
        wait_s: how long to wait for a predecessor that is leaving.

    Raises:
        PermanentError: another process has it, or the folder cannot be written.
    """

    def __init__(self, path: Path, *, wait_s: float) -> None:
        with translated(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        deadline_s = time.monotonic() + wait_s
        while not self._taken():
            if time.monotonic() >= deadline_s:
                holder = os.read(self._descriptor, 32).decode("ascii", "replace").strip()
                os.close(self._descriptor)
                raise PermanentError(
                    f"outbox {path} is in use by process {holder or '?'}: end that one, or give this one a role of its "
                    "own (such as --role detector.2)"
                )
            time.sleep(_LOCK_POLL_S)
        with contextlib.suppress(OSError):  # on a full disk nobody can say who has it; the lock holds all the same
            os.truncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def _taken(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Let the next process have it; the file stays, or two could each lock one of that name."""
        os.close(self._descriptor)


def find_holder(path: Path) -> str | None:
    """The process that has an outbox now, as its number in words; None when none has.

    Raises:
        PermanentError: the folder cannot be read.
    """
    lock = path.with_name(f"{path.name}.lock")
    with translated(path):
        if not lock.exists():
            return None
        with lock.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read(32).decode("ascii", "replace").strip() or "?"
    return None


def open_file(path: Path, origin: str) -> sqlite3.Connection:
    """Open an outbox for writing; made when it is missing. A file that is not this origin's outbox is left as it is.

    Raises:
        PermanentError: it is damaged, of another kind, version or origin, or may not be written.
        TransientError: the disk is full or fails.
    """
    with translated(path):
        is_new = not path.exists() or _is_empty(path, origin)
        db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=_BUSY_TIMEOUT_S)
        try:
            if is_new:
                # Before the first table, and the tables before WAL: all of it is there or nothing is.
                db.execute("PRAGMA auto_vacuum=INCREMENTAL")
                db.executescript(_SCHEMA)
                db.execute("INSERT INTO outbox VALUES (?, 0.0)", (origin,))
                db.execute("COMMIT")
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
        except sqlite3.Error:
            db.close()
            raise
    return db


def _is_empty(path: Path, origin: str) -> bool:
    # A read-only connection cannot take back a transaction that was cut off while the file was being made.
    cut_off = path.with_name(f"{path.name}-journal").exists()
    with closing(_connect(path, "rw" if cut_off else "ro")) as db:
        if db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
            return True
        _check(db, path)
        (owner,) = db.execute("SELECT origin FROM outbox").fetchone()
    if owner != origin:
        raise PermanentError(
            f"outbox {path} belongs to {owner}, not to {origin}: it was renamed; give it its name back"
        )
    return False


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None)


def _check(db: sqlite3.Connection, path: Path) -> None:
    (kind,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if kind != _APPLICATION_ID:
        raise PermanentError(f"{path} is a database, but not an outbox: move it away")
    if version != _VERSION:
        raise PermanentError(
            f"outbox {path} is of another version of Vigil (schema {version}, this one knows {_VERSION}): let that one "
            "drain it (vigil outbox drain), or move it away and start again"
        )


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """One view of an outbox, also while its process writes it, and also on a disk that cannot be written."""
    if not path.exists():
        raise PermanentError(f"outbox {path}: there is no such file")
    with contextlib.ExitStack() as stack, translated(path):
        db = stack.enter_context(closing(_connect(path, "ro")))
        try:
            db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.OperationalError as error:
            if (error.sqlite_errorcode & 0xFF) not in databases.SHUT or not os.access(path, os.R_OK):
                raise
            # A write-ahead log needs a file beside it that says how far it was read; a card may be mounted read-only.
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            db = stack.enter_context(closing(_connect(_copied(path, folder), "rw")))
        _check(db, path)
        db.execute("BEGIN")
        yield db


def _copied(path: Path, folder: Path) -> Path:
    for suffix in ("", "-wal"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            shutil.copyfile(part, folder / part.name)
    return folder / path.name


def read_origin(path: Path) -> str:
    """Whose outbox it is.

    Raises:
        PermanentError: the file cannot be read or is not an outbox.
    """
    with _reading(path) as db:
        return str(db.execute("SELECT origin FROM outbox").fetchone()[0])


def read_backlogs(path: Path) -> list[Backlog]:
    """Look into an outbox, also while its process uses it; nothing in it is changed.

    Raises:
        PermanentError: the file cannot be read or is not an outbox.
    """
    with _reading(path) as db:
        streams = db.execute("SELECT id, name, epoch, last_seq, size_bytes FROM stream ORDER BY name").fetchall()
        return [
            Backlog(name, epoch, last_seq, *_waiting(db, number), size_bytes, _oldest_at(db, number))
            for number, name, epoch, last_seq, size_bytes in streams
        ]


def _waiting(db: sqlite3.Connection, stream: int) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    rows = db.execute("SELECT id FROM entry WHERE id BETWEEN ? AND ? ORDER BY id", _range(stream))
    waiting = tuple(row & SEQ_MAX for (row,) in rows)
    ranges = db.execute("SELECT first, last FROM released WHERE stream = ? ORDER BY first", (stream,)).fetchall()
    return waiting, tuple((first, last) for first, last in ranges)


def _oldest_at(db: sqlite3.Connection, stream: int) -> float | None:
    found = db.execute("SELECT put_at FROM entry WHERE id BETWEEN ? AND ? ORDER BY id LIMIT 1", _range(stream))
    row = found.fetchone()
    return None if row is None else float(row[0])


def _range(stream: int) -> tuple[int, int]:
    return row_id(stream, 0), row_id(stream, SEQ_MAX)


def read_open_events(path: Path) -> list[OpenEvent]:
    """The events of an outbox that have started and not ended.

    Raises:
        PermanentError: the file cannot be read or is not an outbox.
    """
    with _reading(path) as db:
        rows = db.execute("SELECT event_id, topic, payload FROM open_event ORDER BY id").fetchall()
    return [OpenEvent(*row) for row in rows]


def read_waiting(path: Path) -> Iterator[WaitingMessage]:
    """Every message that waits, as one moment saw it: by priority, and then in order.

    Raises:
        PermanentError: the file cannot be read or is not an outbox.
    """
    with _reading(path) as db:
        (origin,) = db.execute("SELECT origin FROM outbox").fetchone()
        streams = db.execute("SELECT id, name, epoch FROM stream ORDER BY priority, id").fetchall()
        for number, name, epoch in streams:
            rows = db.execute(
                "SELECT id, topic, put_at, payload FROM entry WHERE id BETWEEN ? AND ? ORDER BY id", _range(number)
            )
            for row, topic, put_at, payload in rows:
                yield WaitingMessage(name, event_id(origin, epoch, row & SEQ_MAX), topic, put_at, payload)
