"""What the options of `vigil flash` say about a card; passwords are asked for, never taken from the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from config.errors import ConfigError
from config.names import check_name
from fleet.flash.card import CardUser, Wifi
from fleet.flash.password import hash_password

__all__ = ["asked_user", "asked_wifi", "read_cameras"]

_WIFI_VARIABLE = "VIGIL_WIFI_PASSWORD"
_USER_VARIABLE = "VIGIL_USER_PASSWORD"
_KEY_BYTES_MAX = 65_536


def asked_wifi(
    ssid: str | None,
    country: str | None,
    *,
    is_open: bool,
    is_hidden: bool,
    environment: Mapping[str, str] = os.environ,
) -> Wifi | None:
    """The wireless network; None where none was named.

    Raises:
        ConfigError: a value cannot be.
        click.UsageError: options do not fit each other.
    """
    if ssid is None:
        if is_open or is_hidden:
            raise click.UsageError("--wifi-open and --wifi-hidden belong to --wifi SSID")
        return None
    if country is None:
        raise click.UsageError("--wifi needs --country, as DE or US: a Raspberry Pi keeps its radio off without it")
    if is_open:
        return Wifi(ssid=ssid, country=country.upper(), is_hidden=is_hidden)
    password = environment.get(_WIFI_VARIABLE) or _asked(f"password of the network {ssid}")
    return Wifi.of(ssid, password, country=country.upper(), is_hidden=is_hidden)


def asked_user(
    name: str | None,
    key_files: Sequence[Path],
    *,
    has_password: bool,
    environment: Mapping[str, str] = os.environ,
) -> CardUser | None:
    """Who may log in; None where nobody was named.

    Raises:
        ConfigError: a key cannot be read or is none, or a name cannot be.
        click.UsageError: options do not fit each other.
    """
    if name is None:
        if key_files or has_password:
            raise click.UsageError("--ssh-key and --password belong to --user NAME")
        return None
    keys = tuple(key for file in key_files for key in _keys(file))
    given = environment.get(_USER_VARIABLE, "")
    if has_password and not given:
        given = _asked(f"password of {name}", twice=True)
    if not given and not keys:
        raise click.UsageError(f"{name} could not log in: give --ssh-key FILE, or --password")
    return CardUser(name=name, password_hash=hash_password(given) if given else "", ssh_keys=keys)


def _keys(file: Path) -> list[str]:
    try:
        with file.open() as opened:
            text = opened.read(_KEY_BYTES_MAX)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no text"
        raise ConfigError(f"{file} cannot be read: {why}", field="--ssh-key") from error
    if "PRIVATE KEY" in text:
        raise ConfigError(f"{file} is a private key, which stays where it is: give {file.name}.pub", field="--ssh-key")
    found = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not found:
        raise ConfigError(f"{file} is empty", field="--ssh-key")
    return found


def _asked(what: str, *, twice: bool = False) -> str:
    return str(click.prompt(what, hide_input=True, confirmation_prompt=twice, err=True))


def read_cameras(values: Sequence[str]) -> dict[str, str]:
    """Sources of cameras by name, of ``NAME`` or ``NAME=SOURCE``.

    Raises:
        ConfigError: a name cannot be, or is there twice.
    """
    cameras: dict[str, str] = {}
    for value in values:
        name, _, source = value.partition("=")
        try:
            check_name(name)
        except ValueError as error:
            raise ConfigError(str(error), field="--camera") from error
        if name in cameras:
            raise ConfigError(f"two cameras cannot both be called {name!r}", field="--camera")
        cameras[name] = source
    return cameras
