"""Where clips go: the folder beside the recordings, another folder, or an object store."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from config import object_store
from config.clock import Clock
from config.errors import TransientError
from config.object_store import ObjectStore

__all__ = ["ClipStore", "open_store"]

_CHUNK_BYTES = 256 * 1024
_SETTING = "edge.footage.deliver_to"


class ClipStore(Protocol):
    """Takes clips. Concurrency: belongs to one thread."""

    def deliver(self, path: Path, reference: str) -> str:
        """Put a file there, whole or not at all; one that is there already is replaced by the same clip.

        Args:
            path: the file, which stays or goes with the store.
            reference: its name there.

        Returns:
            Where it is, as a URI without credentials.

        Raises:
            TransientError: the store is away, refuses, or is full; try again later.
        """
        ...


def open_store(
    deliver_to: str | None, default: Path, *, bytes_per_s: int, clock: Clock, stop: threading.Event
) -> ClipStore:
    """The place that `edge.footage.deliver_to` names. Nothing is connected yet.

    Args:
        deliver_to: a folder or a URL; None for `default`.
        default: a folder beside the recordings.
        bytes_per_s: how fast at most, but for `default`, to which files are moved.
        clock: how to wait.
        stop: ends a delivery.

    Raises:
        ConfigError: it is neither a folder nor a URL of a store.
        PermanentError: the library for object stores is missing.
    """
    if deliver_to is None:
        return _OwnFolder(default)
    return _Elsewhere(object_store.open_store(deliver_to, _SETTING), _Pace(bytes_per_s, clock, stop))


class _Pace:
    """Hands a file out in chunks, not faster than wanted."""

    def __init__(self, bytes_per_s: int, clock: Clock, stop: threading.Event) -> None:
        self._bytes_per_s = bytes_per_s
        self._clock = clock
        self._stop = stop

    def chunks(self, path: Path) -> Iterator[bytes]:
        """The file's content.

        Raises:
            TransientError: the process is leaving.
            OSError: it cannot be read.
        """
        started_s, given = self._clock.monotonic_s(), 0
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                early_s = given / self._bytes_per_s - (self._clock.monotonic_s() - started_s)
                if early_s > 0 and self._clock.wait(self._stop, early_s):
                    raise TransientError("the delivery goes on after the restart")
                given += len(chunk)
                yield chunk


class _OwnFolder:
    """The folder beside the recordings: a file is moved there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def deliver(self, path: Path, reference: str) -> str:
        target = self._folder / reference
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
        except OSError as error:
            raise object_store.folder_error(self._folder, _SETTING, error) from error
        return target.absolute().as_uri()


class _Elsewhere:
    """Another folder, or an object store: a file is copied there, at its pace."""

    def __init__(self, store: ObjectStore, pace: _Pace) -> None:
        self._store = store
        self._pace = pace

    def deliver(self, path: Path, reference: str) -> str:
        size_bytes = path.stat().st_size
        return self._store.put(reference, self._pace.chunks(path), size_bytes=size_bytes, content_type="video/mp4")
