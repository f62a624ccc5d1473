"""What members fetch at the authority's door: the logins of their own cameras, and versions of Vigil.

It does not go over the bus: a login is for one node, and a bundle is larger than a broker wants to carry.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from broker.members import Member
from config.errors import BadPayloadError
from config.registry import Login
from config.settings import Settings
from fleet.nodes.rights import logins_of
from fleet.registry.folder import RegistryFolder

__all__ = ["Piece", "Shelf", "read_range"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
_RANGE = re.compile(r"bytes=([0-9]{1,15})-")


@dataclass(frozen=True, slots=True)
class Piece:
    """A file from some byte on.

    Attributes:
        file: open, at its first byte that is wanted.
        start: number of that byte.
        size_bytes: of the whole file.
    """

    file: BinaryIO
    start: int
    size_bytes: int


class Shelf:
    """What there is to fetch.

    Concurrency: any number of threads.

    Args:
        logins: of all cameras that a member may know, by camera.
        bundles: folder with versions of Vigil; it need not be there.
    """

    def __init__(self, logins: Callable[[Member], Mapping[str, Login]], bundles: Path) -> None:
        self._logins = logins
        self._bundles = bundles

    @classmethod
    def of(cls, settings: Settings) -> Shelf:
        """What the machine with the registry has: its logins, and the versions of Vigil in its state folder."""
        folder = RegistryFolder(settings.fleet.registry)
        return cls(lambda member: logins_of(member, folder.read(), folder.logins()), settings.state_dir / "bundles")

    def logins(self, member: Member) -> bytes:
        """The logins of a member's own cameras, as JSON.

        Raises:
            VigilError: the file of logins cannot be read.
        """
        found = self._logins(member)
        return msgspec.json.encode(
            {
                camera: {"username": login.username, "password": login.password.get_secret_value()}
                for camera, login in sorted(found.items())
            }
        )

    def bundle(self, name: str, start: int) -> Piece | None:
        """A version of Vigil from a byte on, open; None where there is no such file, or it is shorter.

        A link is not followed: what is served lies in this folder.
        """
        if not _NAME.fullmatch(name):
            return None
        try:
            descriptor = os.open(self._bundles / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or start > found.st_size:
            os.close(descriptor)
            return None
        file = os.fdopen(descriptor, "rb")
        file.seek(start)
        return Piece(file, start, found.st_size)


def read_range(header: str | None) -> int:
    """The first byte that is wanted; of ranges only ``bytes=N-`` is known, with which a download goes on.

    Raises:
        BadPayloadError: it is another one.
    """
    if header is None:
        return 0
    match = _RANGE.fullmatch(header.strip())
    if match is None:
        raise BadPayloadError("a range other than bytes=N-")
    return int(match.group(1))
