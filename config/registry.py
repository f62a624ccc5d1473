"""The files of a site's registry: its cameras, its nodes, and what holds for all of them.

::

    registry/
    ├── site.yaml             time zone, schedules, windows
    ├── cameras/yard.yaml     one file a camera, named as its topics
    ├── nodes/porch.yaml      one file a node
    └── logins.yaml           user names and passwords of cameras; for its owner's eyes, and in .gitignore
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator

from config.cameras import CameraSettings
from config.names import Name, RoleName
from config.schedules import SafetyChecks, Schedule, Windows
from config.secrets import has_secret
from config.section import Section
from config.settings import Settings
from config.sources import secrets_in, variable_of

__all__ = ["CameraEntry", "Device", "Login", "NodeEntry", "SiteEntry"]


def _check_mac(value: str) -> str:
    if re.fullmatch(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", value.lower()):
        return value.lower()
    raise ValueError("write six pairs of hexadecimal digits, as aa:bb:cc:dd:ee:ff")


def _check_zone(value: str) -> str:
    try:
        if value:
            ZoneInfo(value)
    except (OSError, ValueError, ZoneInfoNotFoundError):
        raise ValueError(f"there is no time zone {value!r}: write one such as Europe/Berlin") from None
    return value


def _check_no_login(value: str) -> str:
    if has_secret(value):
        raise ValueError(
            "a login or a token in it would be seen by whoever sees the registry: write user name and password into "
            "logins.yaml, a source with a token into the site file of its node"
        )
    return value


Source = Annotated[str, Field(min_length=3), AfterValidator(_check_no_login)]
_ITS_OWN = ("site", "node", "state_dir", "cameras", "fleet")
"""Settings that are not another's to give: cameras have files of their own."""


def _check_settings(value: dict[str, Any]) -> dict[str, Any]:
    for name in _ITS_OWN:
        if name in value:
            raise ValueError(f"{name} cannot be set for a node from its file in the registry")
    try:
        settings = Settings.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
    for place in secrets_in(settings):
        raise ValueError(
            f"{'.'.join(place)} would be seen by whoever sees the registry: set it on the node, as {variable_of(place)}"
        )
    return value


class Device(Section):
    """The camera as a thing, by which it is known again when its address changes."""

    mac: Annotated[str, AfterValidator(_check_mac)] | None = None
    """Of its network interface."""
    serial: str = ""
    """Its serial number, as it tells over ONVIF."""
    manufacturer: str = ""
    """Who made it."""
    model: str = ""
    """What they call it."""
    firmware: str = ""
    """The version that runs on it."""
    onvif: str | None = Field(default=None, pattern=r"^https?://[^/\s@]+(/\S*)?$")
    """Its ONVIF device service; without a login."""
    endpoint: str = Field(default="", max_length=128)
    """What it calls itself on the network, ``urn:uuid:...``: stays the same when its address changes."""


class CameraEntry(CameraSettings):
    """One camera: ``cameras/NAME.yaml``. All that a site file may say below ``cameras.NAME``, and who watches it.

    A login is in ``logins.yaml``, not in `source`.
    """

    source: Source
    """As in a site file, without a login."""
    sub_source: Source | None = None
    """The same of the smaller stream; it has the same login."""
    name: str = Field(default="", max_length=128)
    """What people call it; default its name in topics."""
    area: str = Field(default="", max_length=128)
    """Room or part of the premises."""
    node: Name | None = None
    """The node that watches it."""
    pool: Name | None = None
    """The pool whose nodes share it out among themselves, in place of `node`: for cameras of the network."""
    excluded: bool = False
    """Nobody touches it."""
    device: Device = Device()
    """The camera as a thing."""
    checks: SafetyChecks = SafetyChecks()
    """What a safety check of it looks at."""

    @model_validator(mode="after")
    def _is_watched_once(self) -> Self:
        if self.node and self.pool:
            raise ValueError("a camera has a `node` or a `pool`, not both: leave one out")
        return self


class Login(Section):
    """How one logs in to a camera."""

    username: str = Field(min_length=1, max_length=128)
    """User name,"""
    password: SecretStr = SecretStr("")
    """and password."""


class NodeEntry(Section):
    """One node: ``nodes/NAME.yaml``."""

    name: str = Field(default="", max_length=128)
    """What people call it; default its name in topics."""
    area: str = Field(default="", max_length=128)
    """Room or part of the premises."""
    roles: dict[Name, Annotated[int, Field(ge=0, le=64)]] = {"edge": 1}
    """Processes that run there, and how many of each: ``{edge: 1, detector: 2}``."""
    gpus: dict[RoleName, tuple[Annotated[int, Field(ge=0, le=63)], ...]] = {}
    """The GPUs that a process may use: ``{detector: [0], detector.2: [1]}``; empty: all."""
    pools: tuple[Name, ...] = ()
    """Pools of cameras that it takes part in."""
    runtime: Literal["auto", "processes", "containers"] = "auto"
    """How processes are run; ``auto``: as processes of the machine."""
    image: str = Field(default="", max_length=128)
    """Container image, where containers are asked for."""
    version: str = Field(default="", pattern=r"^([0-9][0-9A-Za-z.+-]{0,60})?$")
    """Version of Vigil that it is to run; empty: the one that it has."""
    drained: bool = False
    """It is to run nothing for now."""
    settings: Annotated[dict[str, Any], AfterValidator(_check_settings)] = {}
    """What its processes run with, nested as in a site file; goes over the node's own site file."""


class SiteEntry(Section):
    """What holds for the whole site: ``site.yaml``."""

    time_zone: Annotated[str, AfterValidator(_check_zone)] = ""
    """Of schedules, such as ``Europe/Berlin``; empty: that of the machine that keeps them."""
    schedules: dict[Name, Schedule] = {}
    """What is done at which times."""
    windows: Windows = Windows()
    """The hours in which something may change by itself."""
