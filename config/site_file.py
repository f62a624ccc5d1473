"""Handing settings on to processes that one starts: a site file, and the environment for what is secret."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import yaml

from config import service
from config.files import write_atomically
from config.settings import Settings
from config.sources import secrets_in, variable_of

__all__ = ["role_environment", "write_site_file"]


def write_site_file(settings: Settings, path: Path, *, written_by: str) -> None:
    """Write settings for the roles of a machine, for their owner's eyes only: sources of cameras may hold logins.

    Passwords and the like are not in it; they go by :func:`role_environment`.

    Any role can be run by hand with it: ``vigil --config PATH edge``.

    Args:
        settings: what the roles are to run with.
        path: the file; its folder is made.
        written_by: the command that writes it, for whoever opens it.
    """
    document = settings.model_dump(mode="json", exclude_defaults=True)
    for *sections, name in secrets_in(settings):
        section = document
        for part in sections:
            section = section[part]
        del section[name]
    document |= {
        "site": settings.site,
        "node": settings.node,
        "state_dir": str(settings.state_dir.absolute()),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    header = f"# Written by `{written_by}` at each start: what its processes run with.\n"
    write_atomically(path, header + yaml.safe_dump(document, sort_keys=False))


def role_environment(settings: Settings, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of the roles.

    Settings in it are left out, because they are in the site file already and would go above it; secrets are put in,
    because they are not: a command line every user reads with `ps`, while Linux shows ``/proc/PID/environ`` to the
    process's own user and to root only, who can read its memory and its files as well. systemd watches the process that
    it started, not the roles.
    """
    fields = {f"VIGIL_{name}".upper() for name in Settings.model_fields}
    kept = {
        name: value
        for name, value in environment.items()
        if name.upper().partition("__")[0] not in fields and name.upper() not in {"VIGIL_CONFIG", *service.ENVIRONMENT}
    }
    return kept | {variable_of(place): secret for place, secret in secrets_in(settings).items()}
