"""What the site has told a node of itself: its name there, and the way to the broker. Goes over its own settings.

The node's site file is its administrator's; a service may not even be able to write it. So this stands beside, in the
state folder, and holds for as long as the settings say what they said when it was written.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import msgspec

from broker.identity import identity_folder
from broker.members import PERSON_CERTIFICATE
from config.errors import ConfigError
from config.files import make_private_folder, write_atomically
from config.settings import Settings
from config.sources import layered

__all__ = ["Place", "PlacedLoad", "is_unclaimed", "keep_place", "read_place"]

_LISTENING_S = 1.0


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a node belongs.

    Attributes:
        site: the site.
        node: its name there.
        bus: the broker's address.
        instead_of: the name that its settings gave it then.
    """

    site: str
    node: str
    bus: str
    instead_of: str


def _file(state_dir: Path) -> Path:
    return state_dir / "agent" / "place.json"


def read_place(settings: Settings) -> Place | None:
    """What this node was told; None where it was told nothing, or its settings have changed since.

    Args:
        settings: its own, without it.
    """
    try:
        place = msgspec.json.decode(_file(settings.state_dir).read_bytes(), type=Place)
    except (OSError, msgspec.MsgspecError):
        return None
    return place if place.instead_of == settings.node else None


def keep_place(state_dir: Path, place: Place) -> None:
    """Remember it.

    Raises:
        OSError: the state folder cannot be written.
    """
    file = _file(state_dir)
    make_private_folder(file.parent)
    write_atomically(file, msgspec.json.encode(place))


class _Load(Protocol):
    file: Path | None

    def __call__(self, overrides: Mapping[str, Any] | None = None) -> Settings: ...

    def check(self, overrides: Mapping[str, Any] | None = None) -> tuple[Settings | None, list[ConfigError]]: ...


class PlacedLoad:
    """Reads the settings as another reader does, with what the site has told this node above them.

    Args:
        load: reads them.
    """

    def __init__(self, load: _Load) -> None:
        self._load = load
        self.own = load()
        """The settings without it."""
        self.file = load.file
        place = read_place(self.own)
        self._above: dict[str, Any] = (
            {} if place is None else {"site": place.site, "node": place.node, "bus": {"url": place.bus}}
        )

    def __call__(self, overrides: Mapping[str, Any] | None = None) -> Settings:
        """Read them, and set up the logs."""
        return self._load(layered(overrides or {}, self._above))

    def check(self, overrides: Mapping[str, Any] | None = None) -> tuple[Settings | None, list[ConfigError]]:
        """The settings and no errors, or None and everything that is wrong."""
        return self._load.check(layered(overrides or {}, self._above))


def is_unclaimed(settings: Settings) -> bool:
    """Whether nobody has said to which site this machine belongs: no settings, no certificates, no broker here."""
    if {"site", "bus"} & settings.model_fields_set:
        return False
    if [role for role in identity_folder(settings).roles() if role != PERSON_CERTIFICATE]:
        return False
    host, _, port = settings.bus.url.partition("://")[2].partition(":")
    with suppress(OSError), socket.create_connection((host, int(port or 1883)), _LISTENING_S):
        return False
    return True
