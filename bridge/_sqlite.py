"""SQLite as the bridge uses it: one file, write-ahead log, errors in words.

Source: https://sqlite.org/wal.html and https://sqlite.org/pragma.html#pragma_synchronous: with FULL a commit is on the
disk when it returns; with NORMAL it survives the death of the process, and a power cut may take back the last ones.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Literal

from config import PermanentError, TransientError, databases, get_logger

__all__ = ["Database", "open_read_only", "translated"]

Synchronous = Literal["FULL", "NORMAL"]

_BUSY_TIMEOUT_S = 10.0


class Database:
    """One file that this process writes.

    Concurrency: one thread at a time is inside `reading` or `writing`; the others wait.

    Args:
        path: the file; made with its folder when missing.
        schema: statements that change nothing where they have run before.
        what: the file's name in messages.
        version: of the schema; a file of another one is refused.
        gives_space_back: free pages can be given back to the system (`PRAGMA incremental_vacuum`).
    """

    def __init__(self, path: Path, schema: str, *, what: str, version: int, gives_space_back: bool = False) -> None:
        self.path = path
        self._gives_space_back = gives_space_back
        self._schema = schema
        self._what = what
        self._version = version
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._log = get_logger(path=str(path))

    def open(self) -> None:
        """Open the file.

        Raises:
            TransientError: the disk is full or fails.
            PermanentError: the file is damaged, of another kind, or may not be written.
        """
        with self.reading():
            return

    def close(self) -> None:
        """Close the file; it opens again when it is used."""
        with self._lock:
            self._shut()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for questions.

        Raises:
            TransientError: the disk is full or fails.
            PermanentError: the file is damaged, of another kind, or may not be written.
        """
        with self._lock, translated(self._what, self.path):
            yield self._opened()

    @contextmanager
    def writing(self, synchronous: Synchronous) -> Iterator[sqlite3.Connection]:
        """The connection, inside a transaction that is committed at the end, or rolled back.

        Args:
            synchronous: what the commit promises.

        Raises:
            TransientError: the disk did not take it; nothing was stored.
            PermanentError: the file is damaged; nothing was stored.
        """
        try:
            with self.reading() as db:
                db.execute(f"PRAGMA synchronous={synchronous}")
                db.execute("BEGIN IMMEDIATE")
                try:
                    yield db
                    db.execute("COMMIT")
                finally:
                    if db.in_transaction:
                        db.execute("ROLLBACK")
        except TransientError:
            # After a failed write SQLite may refuse every further one on the same connection: the next takes a new one.
            self.close()
            raise

    def _opened(self) -> sqlite3.Connection:
        """The connection; a new one when the file is not the one that was opened.

        A deleted file can still be written to, and everything in it is gone with the process.
        """
        if self._connection is not None and not self._is_in_place():
            self._log.error("database.replaced", what=self._what, cure="the file was moved away: a new one is begun")
            self._shut()
        if self._connection is None:
            self._connection = self._open()
            self._inode = self.path.stat().st_ino
        return self._connection

    def _is_in_place(self) -> bool:
        try:
            return self.path.stat().st_ino == self._inode
        except OSError:
            return False

    def _open(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PermanentError(f"{self._what}: the folder {self.path.parent} cannot be made ({error})") from error
        db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None, timeout=_BUSY_TIMEOUT_S)
        try:
            if self._gives_space_back:
                # Before anything is in the file: later only VACUUM, which copies everything, could change it.
                db.execute("PRAGMA auto_vacuum=INCREMENTAL")
            db.execute("PRAGMA journal_mode=WAL")
            if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                _check_version(db, self.path, what=self._what, version=self._version)
            db.executescript(f"BEGIN IMMEDIATE; {self._schema}; PRAGMA user_version={self._version}; COMMIT")
        except (sqlite3.Error, PermanentError):
            db.close()
            raise
        return db

    def _shut(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def open_read_only(path: Path, *, what: str, version: int) -> sqlite3.Connection:
    """Open a file for reading, while another process may write it.

    Raises:
        PermanentError: there is no such file, it cannot be opened, or its schema is of another version.
    """
    if not path.exists():
        raise PermanentError(
            f"{what} {path}: there is no such file: no bridge has written it yet, or it is elsewhere (--journal)"
        )
    with translated(what, path):
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            _check_version(db, path, what=what, version=version)
        except (sqlite3.Error, PermanentError):
            db.close()
            raise
        return db


def _check_version(db: sqlite3.Connection, path: Path, *, what: str, version: int) -> None:
    (found,) = db.execute("PRAGMA user_version").fetchone()
    if found != version:
        raise PermanentError(
            f"{what} {path} is of another version of Vigil (schema {found}, this one writes {version}): move it away "
            "and start again, or read it with sqlite3; what is not confirmed yet is sent again"
        )


def translated(what: str, path: Path) -> AbstractContextManager[None]:
    """Turn SQLite's errors into Vigil's."""
    return databases.translated(
        what, path, damaged_cure="move it away and start again; what is not confirmed yet is sent again"
    )
