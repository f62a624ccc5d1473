"""Where large things go: a folder, or an object store. obstore has its one home here."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from config.errors import ConfigError, PermanentError, TransientError
from config.files import move_into_place
from config.secrets import mask_uri

__all__ = ["ObjectStore", "folder_error", "open_store"]

_PART_BYTES = 5 * 1024 * 1024
"""The least part of an upload in parts that S3 takes."""
_SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss", "file")
_TRIES = 2
"""Of one request. What fails then is owed still, and its next turn comes after a back-off."""
_TRY_FOR = timedelta(seconds=30)
_CONNECT_WITHIN = timedelta(seconds=30)
_PART_WITHIN = timedelta(minutes=10)
"""The library's 30 s are too short for a part over a mobile connection."""


class ObjectStore(Protocol):
    """Takes objects by name. Concurrency: any thread."""

    def put(self, name: str, chunks: Iterable[bytes], *, size_bytes: int, content_type: str) -> str:
        """Put an object there, whole or not at all; one of that name makes way for it.

        Args:
            name: below the place, with ``/`` between its parts.
            chunks: its content; what they raise ends it.
            size_bytes: of all of them.
            content_type: what it is.

        Returns:
            Where it is, as a URI without credentials.

        Raises:
            TransientError: the store is away, refuses, or is full; try again later.
        """
        ...


def open_store(place: str, setting: str) -> ObjectStore:
    """The place that a setting names. Nothing is connected yet.

    Credentials of an object store come from the environment that its own tools use, such as AWS_ACCESS_KEY_ID.

    Args:
        place: a folder, or a URL such as ``s3://BUCKET/PATH``.
        setting: stands in messages.

    Raises:
        ConfigError: it is neither.
        PermanentError: the library for object stores is missing.
    """
    scheme, separator, rest = place.partition("://")
    if not separator:
        return _Folder(Path(place).expanduser(), setting)
    if scheme not in _SCHEMES or not rest or "@" in rest.partition("/")[0]:
        raise ConfigError(
            f"{mask_uri(place)[:100]!r} is no place: write a folder or s3://BUCKET/PATH (also gs://, az://), and give "
            "logins in the environment, such as AWS_ACCESS_KEY_ID",
            field=setting,
        )
    if scheme == "file":
        return _Folder(Path("/" + rest.lstrip("/")), setting)
    return _Remote(place, setting)


class _Folder:
    """A folder, such as one of a network disk: a file is written under another name, which it then loses."""

    def __init__(self, folder: Path, setting: str) -> None:
        self._folder = folder
        self._setting = setting

    def put(self, name: str, chunks: Iterable[bytes], *, size_bytes: int, content_type: str) -> str:  # noqa: ARG002
        target = self._folder / name
        draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("xb") as file:
                file.writelines(chunks)
                file.flush()
                os.fsync(file.fileno())
            move_into_place(draft, target)
        except OSError as error:
            raise folder_error(self._folder, self._setting, error) from error
        finally:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
        return target.absolute().as_uri()


class _Remote:
    """S3 and what speaks like it, Google Cloud Storage, Azure."""

    def __init__(self, url: str, setting: str) -> None:
        try:
            import obstore
            from obstore.exceptions import BaseError
            from obstore.store import from_url
        except ModuleNotFoundError as error:
            raise PermanentError(
                f"an object store ({setting}) needs obstore: pip install 'vigil-mesh[store]'"
            ) from error
        self._url = url.rstrip("/")
        self._setting = setting
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
            raise ConfigError(f"{mask_uri(url)}: {error}", field=setting) from error

    def put(self, name: str, chunks: Iterable[bytes], *, size_bytes: int, content_type: str) -> str:
        try:
            self._put(
                self._store,
                name,
                iter(chunks),
                attributes={"Content-Type": content_type},
                use_multipart=size_bytes > _PART_BYTES,
                chunk_size=_PART_BYTES,
                max_concurrency=1,
            )
        except (self._error, OSError) as error:
            said = " ".join(str(error).partition("Debug source:")[0].split())[:500].rstrip(": ")
            raise TransientError(
                f"{mask_uri(self._url)} did not take {name}: {said}; check {self._setting}, the network and the "
                "store's credentials in the environment"
            ) from error
        return f"{mask_uri(self._url)}/{name}"


def folder_error(folder: Path, setting: str, error: OSError) -> TransientError:
    """What the system said, with the cure."""
    return TransientError(
        f"{folder} takes no files now: {error.strerror} ({error.filename}); mount it, free space, or name another in "
        f"{setting}"
    )
