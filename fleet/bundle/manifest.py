"""What a bundle says about itself.

A bundle is one tar file with all that a node installs::

    manifest.json     this: which Vigil, for which system, and the SHA-256 of every other file
    manifest.sig      the site's authority has signed it (ECDSA with SHA-256); where there is none, nobody has
    install.py        makes a virtual environment of it, on a bare Python
    launch            starts the version that is in force
    requirements.txt  the locked versions with their hashes
    wheels/           Python packages
    packages/         packages of the distribution

The first two come first, so that a reader knows what is to come before it comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Literal

import msgspec

from config.errors import PermanentError

__all__ = [
    "FAMILIES",
    "INSTALLER",
    "LAUNCHER",
    "MACHINES",
    "MANIFEST",
    "MANIFEST_BYTES_MAX",
    "REQUIREMENTS",
    "SIGNATURE",
    "Architecture",
    "BundledFile",
    "Family",
    "FamilyName",
    "Manifest",
    "parse_manifest",
]

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
INSTALLER = "install.py"
LAUNCHER = "launch"
REQUIREMENTS = "requirements.txt"
MANIFEST_BYTES_MAX = 1_000_000
"""Some thousands of files."""

FamilyName = Literal["bookworm", "trixie"]
Architecture = Literal["arm64", "amd64"]

MACHINES: Mapping[Architecture, str] = MappingProxyType({"arm64": "aarch64", "amd64": "x86_64"})
"""What the names of Python's wheels call them."""


@dataclass(frozen=True, slots=True)
class Family:
    """A release of the distribution, as far as a bundle depends on it.

    Attributes:
        python: version of its Python.
        glibc: minor version of its C library, which says which wheels run.
    """

    python: str
    glibc: int


FAMILIES: Mapping[FamilyName, Family] = MappingProxyType(
    {"bookworm": Family(python="3.11", glibc=36), "trixie": Family(python="3.13", glibc=41)}
)

_Name = Annotated[
    str,
    msgspec.Meta(pattern=r"^(install\.py|launch|requirements\.txt|(wheels|packages)/[A-Za-z0-9][A-Za-z0-9._+~%!-]*)$"),
]
_Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
_Version = Annotated[str, msgspec.Meta(pattern=r"^[0-9][0-9A-Za-z.+-]{0,60}$")]
"""It becomes the name of a folder."""


class BundledFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a bundle.

    Attributes:
        name: its path in the bundle.
        size_bytes: its length.
        sha256: its digest, hexadecimal.
    """

    name: _Name
    size_bytes: Annotated[int, msgspec.Meta(ge=0)]
    sha256: _Sha256


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a bundle, and for whom.

    Attributes:
        version: of Vigil.
        family: the release of the distribution.
        architecture: as the distribution calls it.
        python: version of the Python that its wheels are for.
        roles: what a node may be with it.
        is_complete: everything is in it; else the node fetches what is missing from the internet.
        packages: the distribution's packages that Vigil needs, by name.
        built_at: the time, UTC.
        files: all others.
    """

    v: Literal[1] = 1
    version: _Version
    family: FamilyName
    architecture: Architecture
    python: str
    roles: tuple[str, ...]
    is_complete: bool
    packages: tuple[str, ...]
    built_at: datetime
    files: tuple[BundledFile, ...]

    @property
    def size_bytes(self) -> int:
        """What is in its files."""
        return sum(file.size_bytes for file in self.files)


def parse_manifest(content: bytes) -> Manifest:
    """A manifest from its JSON.

    Raises:
        PermanentError: it is none.
    """
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise PermanentError(f"{MANIFEST} of the bundle cannot be used ({error}): build it again") from error
    if len({file.name for file in manifest.files}) != len(manifest.files):
        raise PermanentError(f"{MANIFEST} of the bundle names a file twice: build it again")
    return manifest
