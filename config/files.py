"""Files that must never be seen half written, or by the wrong eyes."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["FileWatch", "hold_lock", "make_private_folder", "move_into_place", "write_atomically"]

PRIVATE = 0o600
_LOOK_EVERY_S = 2.0


class FileWatch:
    """Looks now and then whether a file has changed.

    Concurrency: one thread.

    Args:
        path: the file; None where there is none, which never changes.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen = self._signature()
        self._look_s = 0.0

    def has_changed(self, now_s: float) -> bool:
        """Whether it is another file than at the last look.

        Args:
            now_s: monotonic seconds; it is looked at every two of them.
        """
        if now_s < self._look_s:
            return False
        self._look_s = now_s + _LOOK_EVERY_S
        before = self._seen
        self.look()
        # One that is not there is being replaced, or away with its disk.
        return self._seen is not None and self._seen != before

    def look(self) -> None:
        """Look at it now: it has changed if it is another one at the next look."""
        self._seen = self._signature()

    def _signature(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat() if self._path is not None else None
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_size, found.st_ino) if found is not None else None


def make_private_folder(path: Path) -> None:
    """Make a folder that only its owner can enter, and take others' access from one that is there.

    Raises:
        OSError: it cannot be made, or belongs to somebody else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    if path.stat().st_mode & 0o077:
        path.chmod(0o700)


def write_atomically(path: Path, content: bytes | str, *, mode: int = PRIVATE) -> None:
    """Replace a file in one step, on disk when this returns; a reader sees the old content or the new one.

    Args:
        path: the file; its folder is there.
        content: text is written as UTF-8.
        mode: from its first moment.

    Raises:
        OSError: the folder cannot be written.
    """
    payload = content.encode() if isinstance(content, str) else content
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        move_into_place(draft, path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def move_into_place(draft: Path, path: Path) -> None:
    """Give a finished file, which is on disk already, its name in one step; that is on disk too when this returns.

    Raises:
        OSError: the folder cannot be written.
    """
    draft.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Wait until nobody else holds this lock file, and hold it; the system lets go also when the process is killed."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def hold_lock_if_free(path: Path) -> Iterator[bool]:
    """Hold this lock file unless somebody else does; whether it is held."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)
