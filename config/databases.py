"""SQLite's errors as Vigil's, the same for every database that it keeps."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from config.errors import PermanentError, TransientError

__all__ = ["SHUT", "translated"]

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
SHUT = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH})
"""Codes that say that this user may not use the file."""


@contextmanager
def translated(what: str, path: Path, *, damaged_cure: str) -> Iterator[None]:
    """Turn what SQLite raises into an error that names the file and the cure.

    Args:
        what: what to call the database.
        path: its file.
        damaged_cure: what to do with a damaged one.

    Raises:
        PermanentError: the file is damaged, of another kind, or may not be used.
        TransientError: the disk is full or fails.
    """
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _DAMAGED:
            raise PermanentError(f"{what} {path} is damaged or of another kind ({error}): {damaged_cure}") from error
        if code in SHUT:
            raise PermanentError(
                f"{what} {path} cannot be opened ({error}): check the rights of the file and of its folder"
            ) from error
        raise TransientError(f"{what} {path}: {error}; free space on the disk, or stop what locks the file") from error
