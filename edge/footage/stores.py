"""Where clips go: a folder, or an object store. obstore has its one home here."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from config.clock import Clock
from config.errors import ConfigError, PermanentError, TransientError
from config.secrets import mask_uri

__all__ = ["ClipStore", "open_store"]

_CHUNK_BYTES = 256 * 1024
_PART_BYTES = 5 * 1024 * 1024
"""The least part of an upload in parts that S3 takes."""
_SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss", "file")
_TRIES = 2
"""Of one request. What fails then is owed still, and its next turn comes after a back-off."""
_TRY_FOR = timedelta(seconds=30)
_CONNECT_WITHIN = timedelta(seconds=30)
_PART_WITHIN = timedelta(minutes=10)
"""The library's 30 s are too short for a part over a mobile connection."""


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

    Credentials of an object store come from the environment that its own tools use, such as AWS_ACCESS_KEY_ID.

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
    pace = _Pace(bytes_per_s, clock, stop)
    scheme, separator, rest = deliver_to.partition("://")
    if not separator:
        return _OtherFolder(Path(deliver_to).expanduser(), pace)
    if scheme not in _SCHEMES or not rest or "@" in rest.partition("/")[0]:
        raise ConfigError(
            f"{mask_uri(deliver_to)[:100]!r} is no place for clips: write a folder or s3://BUCKET/PATH (also gs://, "
            "az://), and give logins in the environment, such as AWS_ACCESS_KEY_ID",
            field="edge.footage.deliver_to",
        )
    if scheme == "file":
        return _OtherFolder(Path("/" + rest.lstrip("/")), pace)
    return _ObjectStore(deliver_to, pace)


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
            raise _folder_error(self._folder, error) from error
        return target.absolute().as_uri()


class _OtherFolder:
    """Another folder, such as one of a network disk: a file is copied under another name, which it then loses."""

    def __init__(self, folder: Path, pace: _Pace) -> None:
        self._folder = folder
        self._pace = pace

    def deliver(self, path: Path, reference: str) -> str:
        target = self._folder / reference
        draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("xb") as file:
                for chunk in self._pace.chunks(path):
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(target)
        except OSError as error:
            raise _folder_error(self._folder, error) from error
        finally:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
        return target.absolute().as_uri()


class _ObjectStore:
    """S3 and what speaks like it, Google Cloud Storage, Azure."""

    def __init__(self, url: str, pace: _Pace) -> None:
        try:
            import obstore
            from obstore.exceptions import BaseError
            from obstore.store import from_url
        except ModuleNotFoundError as error:
            raise PermanentError(
                "clips for an object store (edge.footage.deliver_to) need obstore: pip install 'vigil-mesh[store]'"
            ) from error
        self._url = url.rstrip("/")
        self._pace = pace
        self._put = obstore.put
        self._error = BaseError
        try:
            # Plain HTTP only where the environment names such an endpoint: a store of one's own in the local network.
            self._store = from_url(
                url,
                retry_config={"max_retries": _TRIES, "retry_timeout": _TRY_FOR},
                client_options={"allow_http": True, "connect_timeout": _CONNECT_WITHIN, "timeout": _PART_WITHIN},
            )
        except (BaseError, ValueError) as error:
            raise ConfigError(f"{mask_uri(url)}: {error}", field="edge.footage.deliver_to") from error

    def deliver(self, path: Path, reference: str) -> str:
        try:
            self._put(
                self._store,
                reference,
                self._pace.chunks(path),
                attributes={"Content-Type": "video/mp4"},
                use_multipart=path.stat().st_size > _PART_BYTES,
                chunk_size=_PART_BYTES,
                max_concurrency=1,
            )
        except (self._error, OSError) as error:
            said = " ".join(str(error).split())[:500]
            raise TransientError(
                f"{mask_uri(self._url)} did not take {reference}: {said}; check edge.footage.deliver_to, the network "
                "and the store's credentials in the environment"
            ) from error
        return f"{mask_uri(self._url)}/{reference}"


def _folder_error(folder: Path, error: OSError) -> TransientError:
    return TransientError(
        f"clips cannot be delivered to {folder}: {error.strerror} ({error.filename}); mount it, free space, or name "
        "another in edge.footage.deliver_to"
    )
