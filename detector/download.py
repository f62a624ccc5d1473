"""A file from an address: resumed where it broke off, bounded, and never taken for whole when it is not."""

from __future__ import annotations

import base64
import http.client
import os
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import unquote, urlsplit, urlunsplit

from config import PermanentError, TransientError
from config.secrets import mask_uri

__all__ = ["SIZE_MAX_BYTES", "OnProgress", "download", "file_of_url"]

SIZE_MAX_BYTES = 2_000_000_000
"""Of a file whose size nobody has said. The largest detection models have a fifth of that."""
_TIMEOUT_S = 30.0
"""Without a byte, and for the connection."""
_CHUNK_BYTES = 1 << 18
_SPARE_BYTES = 50_000_000
"""Left on the disk: outboxes live on it too."""
_AGAIN_LATER = frozenset({408, 425, 429})
"""Besides all of 500 and more. Source: RFC 9110, section 15.5; RFC 6585, section 4."""

OnProgress = Callable[[int, int | None], None]
"""Told how many bytes are there, and of how many, where that is known. What it raises ends the download."""


class _Reader(Protocol):
    def read(self, amount: int, /) -> bytes: ...


def download(url: str, part: Path, *, size_bytes: int | None = None, on_progress: OnProgress) -> bool:
    """Bring a file here, from where an earlier try broke off if the server has the same file still.

    A server says whether it has by a strong entity tag or a date (RFC 9110, section 13.1.5); a file from one that says
    neither begins anew each time. Where the size is not known, what the server announces must have come.

    Args:
        url: ``https://``, ``http://`` or ``file:``; a login in it is sent to that host only, and shown nowhere.
        part: where it goes, on disk when this returns. What an earlier try left there is gone on with; the file's
            neighbour ``.tag`` says what that was.
        size_bytes: how many it must have, as far as that is known; more are not taken.
        on_progress: told after each piece.

    Returns:
        Whether it was put together from two tries.

    Raises:
        TransientError: the server, the way to it or the disk fails for now.
        PermanentError: there is no such file there, or it is larger than it may be.
    """
    scheme = urlsplit(url).scheme
    if scheme == "file":
        _copy(file_of_url(url), part, size_bytes, on_progress)
        return False
    if scheme not in ("http", "https"):
        raise PermanentError(f"{mask_uri(url)} is no address of a file: write https://HOST/PATH, or file:///PATH")
    if size_bytes is not None and _size(part) == size_bytes:
        return True
    return _receive(url, part, size_bytes, on_progress)


def file_of_url(url: str) -> Path:
    """The path that a ``file:`` address means."""
    return Path(unquote(urlsplit(url).path))


def _copy(source: Path, part: Path, size_bytes: int | None, on_progress: OnProgress) -> None:
    try:
        with source.open("rb") as file:
            total = os.fstat(file.fileno()).st_size
            _check_size(str(source), total, size_bytes)
            _save(_pieces(file, str(source)), part, 0, total, on_progress)
    except FileNotFoundError as error:
        raise TransientError(
            f"there is no {source} on this machine: put the file there, or use an address that every worker reaches"
        ) from error
    except OSError as error:
        raise TransientError(f"{source} cannot be read: {error.strerror}") from error


def _receive(url: str, part: Path, size_bytes: int | None, on_progress: OnProgress) -> bool:
    have, tag = _size(part), _read_tag(part)
    if not tag:
        have = 0
    shown = mask_uri(url)
    try:
        with _OPENER.open(_request(url, have, tag), timeout=_TIMEOUT_S) as response:
            start = _start(response, have)
            total = _announced(response, start)
            _check_size(shown, total, size_bytes)
            if start == 0:
                _write_tag(part, response)
            _save(_pieces(response, shown), part, start, size_bytes if total is None else total, on_progress)
            return start > 0
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            _forget(part)
            return _receive(url, part, size_bytes, on_progress)
        kind = TransientError if error.code >= 500 or error.code in _AGAIN_LATER else PermanentError
        raise kind(f"{shown}: the server says {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _unreached(shown, error) from error


def _unreached(shown: str, error: Exception) -> TransientError:
    """What went wrong on the way, in words; an untrusted certificate is one that time does not cure, a site does."""
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return TransientError(f"{shown}: the server's certificate is not trusted here: {reason.verify_message}")
    return TransientError(f"{shown} cannot be fetched: {reason or type(error).__name__}")


def _request(url: str, have: int, tag: str) -> urllib.request.Request:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    request = urllib.request.Request(  # noqa: S310 - the caller has looked at the scheme
        urlunsplit(parts._replace(netloc=host, fragment="")),
        headers={"Accept-Encoding": "identity", "User-Agent": "vigil"},
    )
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", tag)
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    return request


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows where it is sent, and never from TLS to a wire that anybody reads, nor to a file of this machine."""

    def redirect_request(  # noqa: PLR0917 - the library's own
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in ({"https"} if req.type == "https" else {"https", "http"}):
            raise urllib.error.URLError(f"it is redirected to {mask_uri(newurl)}, which is not safe")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_Redirects)


def _start(response: Any, have: int) -> int:  # noqa: ANN401 - urllib has no type for what it opens
    """Where the answer's first byte belongs."""
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        return 0
    stated = str(response.headers.get("Content-Range", ""))
    if not stated.startswith(f"bytes {have}-"):
        raise TransientError(f"the server sends {stated[:80]!r} where it was asked for bytes {have} and on")
    return have


def _announced(response: Any, start: int) -> int | None:  # noqa: ANN401
    length = str(response.headers.get("Content-Length", ""))
    return start + int(length) if length.isdigit() else None


def _check_size(shown: str, total: int | None, size_bytes: int | None) -> None:
    if size_bytes is not None and total is not None and total != size_bytes:
        raise PermanentError(f"{shown} has {total} bytes and not the {size_bytes} that the model has: wrong size")
    if total is not None and total > SIZE_MAX_BYTES:
        raise PermanentError(f"{shown} has {total} bytes, more than the {SIZE_MAX_BYTES} of any model")


def _pieces(source: _Reader, shown: str) -> Iterator[bytes]:
    while piece := _read(source, shown):
        yield piece


def _read(source: _Reader, shown: str) -> bytes:
    # Apart from the writing, whose errors are the disk's.
    try:
        return source.read(_CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _unreached(shown, error) from error


def _save(pieces: Iterator[bytes], part: Path, start: int, total: int | None, on_progress: OnProgress) -> None:
    _check_room(part, (total or 0) - start)
    here, limit = start, SIZE_MAX_BYTES if total is None else total
    try:
        with part.open("ab" if start else "wb") as file:
            on_progress(here, total)
            for piece in pieces:
                here += len(piece)
                if here > limit:
                    break
                file.write(piece)
                on_progress(here, total)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        # On a full disk half a model is the last thing that anybody needs.
        _forget(part)
        raise TransientError(f"{part.parent} took no more than {here} bytes of a model: {error.strerror}") from error
    if here > limit:
        _forget(part)
        raise PermanentError(f"more than {limit} bytes came, which is not what was announced, or no model")
    if total is not None and here < total:
        raise TransientError(f"the server ended after {here} of {total} bytes; the next try goes on from there")


def _check_room(part: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(part.parent).free
    if free_bytes < needed_bytes + _SPARE_BYTES:
        _forget(part)
        raise TransientError(
            f"the disk of {part.parent} is full: {free_bytes} bytes are free, a model of {needed_bytes} bytes needs "
            f"that and {_SPARE_BYTES} to spare"
        )


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _tag_file(part: Path) -> Path:
    return part.with_suffix(".tag")


def _read_tag(part: Path) -> str:
    try:
        return _tag_file(part).read_text(encoding="latin-1")
    except OSError:
        return ""


def _write_tag(part: Path, response: Any) -> None:  # noqa: ANN401
    """Remember what the server has, where it says so; before the first byte of it is written."""
    tag = str(response.headers.get("ETag", ""))
    if not tag.startswith('"'):  # a weak one says that it is much the same, which is not enough
        tag = str(response.headers.get("Last-Modified", ""))
    try:
        _tag_file(part).write_text(tag, encoding="latin-1")
    except OSError as error:
        raise TransientError(f"{part.parent} cannot be written: {error.strerror}") from error


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag_file(part).unlink(missing_ok=True)
