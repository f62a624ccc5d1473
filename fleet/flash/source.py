"""An operating system's image, from a file or the network: unpacked as it comes, and checked.

What is unpacked is written with holes where it is empty, as most of an image is.
"""

from __future__ import annotations

import hashlib
import http.client
import lzma
import os
import re
import shutil
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

from config.errors import ConfigError, PermanentError, TransientError
from config.secrets import mask_uri
from fleet.flash.xz import unpacked_bytes

__all__ = ["ImageSource", "Progress", "unpack"]

Progress = Callable[[int, int | None], None]
"""Called with the bytes of the file that were read so far, and all of them where that is known."""

_TIMEOUT_S = 30.0
_CHUNK_BYTES = 1 << 20
_ZEROS = bytes(_CHUNK_BYTES)
_SHA256_TEXT_BYTES_MAX = 4_096
_SHA256 = re.compile(r"\b([0-9a-fA-F]{64})\b")
_MAGIC_BYTES = 6
_SPARE_BYTES = 64 << 20
"""Left free beside the image."""


class _Unpacker(Protocol):
    def decompress(self, content: bytes, max_length: int = ..., /) -> bytes: ...

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class ImageSource:
    """Where an image comes from.

    Attributes:
        place: a file's path, or an address.
        sha256: of the file as it is, packed or not; empty: what lies beside it, as ``PLACE.sha256``, says it.
    """

    place: str
    sha256: str = ""

    def __post_init__(self) -> None:
        """Check.

        Raises:
            ConfigError: the address is of another kind, or nothing would vouch for what comes from it.
        """
        if self.sha256 and not _SHA256.fullmatch(self.sha256):
            raise ConfigError("a SHA-256 has 64 hexadecimal digits", field="--sha256")
        scheme = urlsplit(self.place).scheme if self.is_remote else ""
        if scheme not in {"", "http", "https"}:
            raise ConfigError(f"{mask_uri(self.place)[:120]!r}: give a file, or https://...", field="--image")
        if scheme == "http" and not self.sha256:
            raise ConfigError(
                "nobody vouches for what comes over http://: use https://, or say what it must be with --sha256",
                field="--image",
            )

    @property
    def is_remote(self) -> bool:
        """Whether it is an address."""
        return "://" in self.place

    @property
    def name(self) -> str:
        """The file's name."""
        return Path(unquote(urlsplit(self.place).path) if self.is_remote else self.place).name

    @contextmanager
    def open(self) -> Iterator[tuple[IO[bytes], int | None]]:
        """Its bytes as they are, and how many, where that is known.

        Raises:
            ConfigError: there is no such file.
            TransientError: the server is away.
            PermanentError: it has no such file.
        """
        if not self.is_remote:
            path = Path(self.place)
            try:
                file = path.open("rb")
            except OSError as error:
                raise ConfigError(f"{path} cannot be read: {error.strerror}", field="--image") from error
            with file:
                yield file, path.stat().st_size
            return
        with _opened(self.place) as response:
            length = response.headers.get("Content-Length", "")
            yield response, int(length) if length.isdecimal() else None

    def known_sha256(self) -> str:
        """What the file must be; empty where nobody says.

        Raises:
            ConfigError: the file beside it cannot be read, or says nothing.
            TransientError: the server is away.
        """
        if self.sha256:
            return self.sha256.lower()
        text = self._beside()
        if not text:
            return ""
        lines = [line for line in text.splitlines() if self.name in line] or text.splitlines()[:1]
        found = _SHA256.search(lines[0]) if lines else None
        if found is None:
            raise ConfigError(
                f"{self.name}.sha256 beside it has no SHA-256 in it: say with --sha256 what it must be", field="--image"
            )
        return found[1].lower()

    def _beside(self) -> str:
        if not self.is_remote:
            try:
                with Path(f"{self.place}.sha256").open("rb") as file:
                    return file.read(_SHA256_TEXT_BYTES_MAX).decode("utf-8", errors="replace")
            except FileNotFoundError:
                return ""
            except OSError as error:
                raise ConfigError(f"{self.place}.sha256 cannot be read: {error.strerror}", field="--image") from error
        address = urlsplit(self.place)
        try:
            with _opened(address._replace(path=f"{address.path}.sha256").geturl()) as response:
                return bytes(response.read(_SHA256_TEXT_BYTES_MAX)).decode("utf-8", errors="replace")
        except PermanentError:
            return ""


def unpack(source: ImageSource, target: Path, on_progress: Progress) -> str:
    """Write the image into a file.

    Args:
        source: where it comes from: as it is, or packed as .xz or .gz, which is seen in its content.
        target: a new file, which is gone again when this fails.
        on_progress: see there.

    Returns:
        The SHA-256 that it was checked against; empty where nobody said one.

    Raises:
        ConfigError: it cannot be read, is packed in another way, or there is no room for it.
        TransientError: the connection ended; nothing is there.
        PermanentError: it is not what it must be, or the target cannot be written.
    """
    wanted = source.known_sha256()
    _check_room(source, target)
    with ExitStack() as unfinished:
        try:
            # What comes into it later, a token, is for its owner's eyes.
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            unfinished.callback(target.unlink)
            with os.fdopen(descriptor, "wb") as file:
                found = _unpack_into(source, file, on_progress)
        except OSError as error:
            raise PermanentError(f"{target} cannot be written: {error.strerror}") from error
        if wanted and found != wanted:
            raise PermanentError(
                f"{source.name} is not what it must be: its SHA-256 is {found}, and {wanted} was expected. Fetch it "
                "again"
            )
        unfinished.pop_all()
    return wanted


def _unpack_into(source: ImageSource, target: BinaryIO, on_progress: Progress) -> str:
    digest = hashlib.sha256()
    done = 0
    with source.open() as (stream, size_bytes):
        unpacker: _Unpacker | None = None
        for chunk in _chunks(stream, source):
            if not done:
                unpacker = _unpacker(chunk, source.name)
            digest.update(chunk)
            done += len(chunk)
            for block in _unpacked(unpacker, chunk, source.name):
                _write_block(target, block)
            on_progress(done, size_bytes)
        if size_bytes is not None and done < size_bytes:
            raise TransientError(f"the connection ended after {done:,} of {size_bytes:,} bytes of {source.name}")
        if unpacker is not None and not unpacker.eof:
            raise ConfigError(f"{source.name} ends in the middle: it was not copied whole", field="--image")
    if not done:
        raise ConfigError(f"{source.name} is empty", field="--image")
    target.truncate(target.tell())
    return digest.hexdigest()


def _chunks(stream: IO[bytes], source: ImageSource) -> Iterator[bytes]:
    try:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        if source.is_remote:
            raise TransientError(f"the connection ended in the middle of {source.name} ({error})") from error
        raise PermanentError(f"{source.place} cannot be read ({error})") from error


def _unpacker(start: bytes, name: str) -> _Unpacker | None:
    if start.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor(lzma.FORMAT_XZ)
    if start.startswith(b"\x1f\x8b"):
        return _Gzip()
    for magic, kind in ((b"PK\3\4", ".zip"), (b"\x28\xb5\x2f\xfd", ".zst"), (b"BZh", ".bz2"), (b"7z\xbc\xaf", ".7z")):
        if start.startswith(magic):
            raise ConfigError(
                f"{name} is packed as {kind}: unpack it first. Vigil reads .img, .img.xz and .img.gz", field="--image"
            )
    return None


class _Gzip:
    """As those of `lzma` are."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, content: bytes, max_length: int = 0, /) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + content, max(max_length, 0))


def _unpacked(unpacker: _Unpacker | None, chunk: bytes, name: str) -> Iterator[bytes]:
    if unpacker is None:
        yield chunk
        return
    try:
        # A few bytes of a packed image may be gigabytes of nothing.
        while not unpacker.eof:
            block = unpacker.decompress(chunk, _CHUNK_BYTES)
            chunk = b""
            if not block:
                break
            yield block
        if unpacker.eof and (chunk or unpacker.unused_data).strip(b"\0"):
            raise ConfigError(f"{name} was packed in several pieces: unpack it first, with `xz -d` or `gunzip`")
    except (lzma.LZMAError, zlib.error) as error:
        raise ConfigError(f"{name} is damaged ({error}): fetch it again", field="--image") from error


def _write_block(target: BinaryIO, block: bytes) -> None:
    if block == _ZEROS[: len(block)]:
        target.seek(len(block), 1)
    else:
        target.write(block)


def _check_room(source: ImageSource, target: Path) -> None:
    """Look whether there is room, as far as one can know before.

    Raises:
        ConfigError: there is not, or no such folder.
    """
    try:
        free_bytes = shutil.disk_usage(target.parent).free
    except OSError as error:
        raise ConfigError(f"{target.parent} cannot be used: {error.strerror}") from error
    needed = 0
    if not source.is_remote and Path(source.place).is_file():
        needed = unpacked_bytes(Path(source.place)) or Path(source.place).stat().st_size
    if needed + _SPARE_BYTES > free_bytes:
        raise ConfigError(
            f"{source.name} needs {needed / 1e9:.1f} GB in {target.parent}, which has {free_bytes / 1e9:.1f} GB free: "
            "make room, or name another place with --out or --work"
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Nobody leads from an address that is protected to one that is not."""

    def redirect_request(  # noqa: PLR0917 - the arguments are its parent's
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """As every redirect, unless it leads out of TLS."""
        if urlsplit(newurl).scheme not in ({"https"} if req.type == "https" else {"https", "http"}):
            raise urllib.error.URLError(f"it is redirected to {mask_uri(newurl)}, which is not safe")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_Redirects)


@contextmanager
def _opened(url: str) -> Iterator[Any]:  # urllib has no type for what it opens
    shown = mask_uri(url)
    # "identity": a server may offer to pack what is packed already, and the hash is that of the file.
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})  # noqa: S310 - the scheme is looked at
    try:
        response = _OPENER.open(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            raise PermanentError(f"{shown}: the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise TransientError(f"{shown} cannot be reached ({getattr(error, 'reason', error)})") from error
    with response:
        yield response
