"""What may hold a login, asked for: never from the command line, where everybody on this machine could read it."""

from __future__ import annotations

import os
import sys

import click
from pydantic import SecretStr

__all__ = ["asked_password", "asked_source"]

_PASSWORD_VARIABLE = "VIGIL_CAMERA_PASSWORD"  # noqa: S105 - the variable's name
_CHARACTERS_MAX = 4096


def asked_source(given: str | None) -> str:
    """A camera's source, perhaps with a login: as given, else asked for or the first line of standard input."""
    if given is not None and given != "-":
        return given
    if not sys.stdin.isatty():
        line = sys.stdin.readline(_CHARACTERS_MAX).strip()
        if not line:
            raise click.UsageError("standard input has no source: write one line, such as rtsp://10.0.0.7/s1")
        return line
    return str(click.prompt("Source, with its login if it needs one (not shown)", hide_input=True)).strip()


def asked_password(username: str, camera: str) -> SecretStr:
    """A password: from its variable, standard input, or whoever sits there."""
    given = os.environ.get(_PASSWORD_VARIABLE)
    if given is None and not sys.stdin.isatty():
        given = sys.stdin.readline(_CHARACTERS_MAX).rstrip("\r\n")
    if given is None:
        given = str(click.prompt(f"Password of {username} at {camera}", hide_input=True))
    return SecretStr(given)
