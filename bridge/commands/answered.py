"""Commands that were carried out, and what was answered: on disk, so that a repeat is answered and not done again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bridge._sqlite import Database

__all__ = ["Answered"]

_WHAT = "the memory of commands"
_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS answered (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    command TEXT NOT NULL UNIQUE,
    digest BLOB NOT NULL,
    reply BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS cameras (
    name TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
"""
_ROWS_MAX = 20_000
_PRUNE_EVERY = 256


class Answered:
    """What was answered, by the command's id; and the cameras that the topic of documents has named.

    Concurrency: one thread.

    Args:
        path: the file; made with its folder when missing.
        rows_max: answers that are remembered; the oldest are forgotten.
    """

    def __init__(self, path: Path, *, rows_max: int = _ROWS_MAX) -> None:
        self._database = Database(path, _SCHEMA, what=_WHAT, version=_VERSION)
        self._rows_max = rows_max
        self._puts = 0

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

    def find(self, command: str) -> tuple[bytes, bytes] | None:
        """Digest and reply of a command that was answered.

        Raises:
            TransientError: the disk fails.
        """
        with self._database.reading() as db:
            row = db.execute("SELECT digest, reply FROM answered WHERE command = ?", (command,)).fetchone()
        return None if row is None else (row[0], row[1])

    def put(self, command: str, digest: bytes, reply: bytes) -> None:
        """Remember an answer; on the disk when this returns.

        Raises:
            TransientError: the disk did not take it.
        """
        self._puts += 1
        with self._database.writing("FULL") as db:
            db.execute(
                "INSERT OR REPLACE INTO answered (command, digest, reply) VALUES (?, ?, ?)", (command, digest, reply)
            )
            if self._puts % _PRUNE_EVERY == 1:
                db.execute("DELETE FROM answered WHERE id <= (SELECT max(id) FROM answered) - ?", (self._rows_max,))

    def cameras(self) -> frozenset[str]:
        """Cameras that the topic of documents had a document of when it was last read."""
        with self._database.reading() as db:
            return frozenset(name for (name,) in db.execute("SELECT name FROM cameras"))

    def keep_cameras(self, *, add: Iterable[str] = (), remove: Iterable[str] = ()) -> None:
        """Note which cameras it has a document of.

        Raises:
            TransientError: the disk did not take it.
        """
        with self._database.writing("FULL") as db:
            db.executemany("INSERT OR IGNORE INTO cameras VALUES (?)", [(name,) for name in add])
            db.executemany("DELETE FROM cameras WHERE name = ?", [(name,) for name in remove])
