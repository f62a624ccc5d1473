"""Looking into a bundle, and whether it is what the site's authority has signed."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.certs import is_signed_by
from config.errors import ConfigError, PermanentError
from fleet.bundle.manifest import (
    MANIFEST,
    MANIFEST_BYTES_MAX,
    SIGNATURE,
    BundledFile,
    Manifest,
    parse_manifest,
)

__all__ = ["has_signature", "read_manifest", "unpack_bundle", "verify_bundle"]

_SIGNATURE_BYTES_MAX = 1_000
_CHUNK_BYTES = 1 << 20


def read_manifest(path: Path) -> Manifest:
    """What a bundle says about itself; neither its files nor its signature are looked at.

    Raises:
        ConfigError: the file cannot be read.
        PermanentError: it is no bundle.
    """
    with _opened(path) as bundle:
        return parse_manifest(bundle.manifest)


def has_signature(path: Path) -> bool:
    """Whether somebody has signed it; who, `verify_bundle` says.

    Raises:
        ConfigError: the file cannot be read.
        PermanentError: it is no bundle.
    """
    with _opened(path) as bundle:
        return bundle.signature is not None


def verify_bundle(path: Path, authority_certificate: bytes | None) -> Manifest:
    """Check every byte of a bundle.

    Args:
        path: the tar file.
        authority_certificate: of the authority that must have signed it, PEM; None: hashes are enough, for what
            somebody with the machine in hand has put there.

    Raises:
        ConfigError: the file cannot be read.
        PermanentError: it is not as it was built, or nobody or another has signed it.
    """
    with _opened(path) as bundle:
        manifest = _trusted(bundle, authority_certificate)
        for member, file in _members(bundle, manifest):
            _copy(bundle, member, file, lambda _chunk: None)
    return manifest


def unpack_bundle(path: Path, authority_certificate: bytes | None, folder: Path) -> Manifest:
    """Check a bundle and write its files, with its manifest, in one reading: what was checked is what is there.

    Args:
        path: the tar file.
        authority_certificate: as for `verify_bundle`.
        folder: is made. After an error it holds what nobody may use.

    Raises:
        ConfigError: the file cannot be read.
        PermanentError: as for `verify_bundle`.
        OSError: the folder is there, or cannot be written.
    """
    with _opened(path) as bundle:
        manifest = _trusted(bundle, authority_certificate)
        folder.mkdir(mode=0o755)
        (folder / MANIFEST).write_bytes(bundle.manifest)
        for member, file in _members(bundle, manifest):
            target = folder / file.name
            target.parent.mkdir(mode=0o755, exist_ok=True)
            with target.open("xb") as written:
                _copy(bundle, member, file, written.write)
    return manifest


@dataclass(frozen=True, slots=True)
class _Opened:
    """A bundle whose head was read.

    Attributes:
        path: the tar file.
        tar: stands behind the head.
        manifest: JSON.
        signature: of that; None where there is none.
        first: the first member behind the head; None where there is none.
    """

    path: Path
    tar: tarfile.TarFile
    manifest: bytes
    signature: bytes | None
    first: tarfile.TarInfo | None

    def members(self) -> Iterator[tarfile.TarInfo]:
        member = self.first
        while member is not None:
            yield member
            member = self.tar.next()


@contextmanager
def _opened(path: Path) -> Iterator[_Opened]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=path) from error
    with file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                yield _read_head(tar, path)
        except tarfile.TarError as error:
            raise PermanentError(f"{path} is no bundle, or not all of it ({error}): build or fetch it again") from error


def _read_head(tar: tarfile.TarFile, path: Path) -> _Opened:
    first = tar.next()
    if first is None or first.name != MANIFEST or not first.isreg() or first.size > MANIFEST_BYTES_MAX:
        raise PermanentError(f"{path} is no bundle: it does not begin with {MANIFEST}; `vigil bundle build` makes one")
    manifest = _content(tar, first)
    second = tar.next()
    if second is None or second.name != SIGNATURE:
        return _Opened(path, tar, manifest, None, second)
    if not second.isreg() or second.size > _SIGNATURE_BYTES_MAX:
        raise PermanentError(f"{path}: {SIGNATURE} is no signature: build or fetch it again")
    return _Opened(path, tar, manifest, _content(tar, second), tar.next())


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    return stream.read() if stream is not None else b""


def _trusted(bundle: _Opened, certificate: bytes | None) -> Manifest:
    if certificate is not None:
        if bundle.signature is None:
            raise PermanentError(
                f"{bundle.path} is not signed: build it where the site's authority is, with `vigil bundle build`"
            )
        if not is_signed_by(certificate, bundle.manifest, bundle.signature):
            raise PermanentError(
                f"{bundle.path} is not signed by this site's authority: it was changed, or another site has built it"
            )
    return parse_manifest(bundle.manifest)


def _members(bundle: _Opened, manifest: Manifest) -> Iterator[tuple[tarfile.TarInfo, BundledFile]]:
    """The tar's files in their order, which are exactly those of the manifest.

    Raises:
        PermanentError: one is missing, is no plain file, or is in no manifest.
    """
    expected = {file.name: file for file in manifest.files}
    for member in bundle.members():
        file = expected.pop(member.name, None)
        if file is None:
            raise PermanentError(
                f"{bundle.path}: {member.name[:100]!r} is not in its manifest: it was changed; fetch it again"
            )
        if not member.isreg() or member.size != file.size_bytes:
            raise _changed(bundle, file)
        yield member, file
    if expected:
        raise PermanentError(f"{bundle.path}: {min(expected)} is missing: fetch it again")


def _copy(bundle: _Opened, member: tarfile.TarInfo, file: BundledFile, take: Callable[[bytes], object]) -> None:
    """Hand on a file's content.

    Raises:
        PermanentError: it is not what the manifest says.
    """
    stream = bundle.tar.extractfile(member)
    digest = hashlib.sha256()
    while stream is not None and (chunk := stream.read(_CHUNK_BYTES)):
        digest.update(chunk)
        take(chunk)
    if digest.hexdigest() != file.sha256:
        raise _changed(bundle, file)


def _changed(bundle: _Opened, file: BundledFile) -> PermanentError:
    return PermanentError(f"{bundle.path}: {file.name} is not the file of its manifest: fetch the bundle again")
