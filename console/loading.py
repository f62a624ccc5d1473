"""How a command gets its settings: the root's flags, the command's own, the site file and the environment."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from config import ConfigError, configure_logging
from config.settings import Settings
from config.sources import check_settings, exposes_secrets, layered

__all__ = ["EXPOSED", "SettingsLoader", "leave_with_stdin"]

DEFAULT_FILE = Path("vigil.yaml")
EXPOSED = "{file} holds a password or a token, and every user of this machine can read it: chmod o= {file}"
_LAST_WORDS_S = 10.0
"""Seconds that a role has for its orderly end once whoever started it is gone."""


class SettingsLoader:
    """What every command finds as ``ctx.obj``: call it with the command's own flags.

    Args:
        file: the site file, or None for ``./vigil.yaml`` where it exists.
        flags: what the root's options say, nested like the settings; None means that an option was not given.
    """

    def __init__(self, file: Path | None, flags: Mapping[str, Any]) -> None:
        self.file = file if file is not None else DEFAULT_FILE if DEFAULT_FILE.exists() else None
        self.flags = _given(flags)

    def __call__(self, overrides: Mapping[str, Any] | None = None) -> Settings:
        """Read the settings and set up the logs of this process, to standard output.

        Args:
            overrides: the command's flags, nested like the settings; None values count as not given.

        Raises:
            ConfigError: the first thing that is wrong; how many more there are is added as a note.
        """
        settings = self.read(overrides)
        configure_logging(settings.log.level, settings.log.style)
        if self.exposed:  # not as a line of log: standard output may be a command's result
            click.echo(f"vigil: warning: {EXPOSED.format(file=self.file)}", err=True)
        return settings

    @property
    def exposed(self) -> bool:
        """Whether the site file holds a secret that every user of this machine can read."""
        return self.file is not None and exposes_secrets(self.file)

    def read(self, overrides: Mapping[str, Any] | None = None) -> Settings:
        """Read the settings and leave the logs alone.

        Raises:
            ConfigError: as above.
        """
        settings, errors = self.check(overrides)
        if settings is None:
            if len(errors) > 1:
                errors[0].add_note(f"and {len(errors) - 1} more; `vigil config check` prints them all")
            raise errors[0]
        return settings

    def check(
        self, overrides: Mapping[str, Any] | None = None, *, file: Path | None = None
    ) -> tuple[Settings | None, list[ConfigError]]:
        """The settings and no errors, or None and everything that is wrong; `file` in place of the root's."""
        return check_settings(file or self.file, layered(self.flags, _given(overrides or {})))


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for key, value in flags.items():
        kept = _given(value) if isinstance(value, Mapping) else value
        if kept is not None and kept != {}:
            given[key] = kept
    return given


def leave_with_stdin() -> None:
    """End this process in order once standard input closes: whoever started it is gone, even by SIGKILL.

    Concurrency: waits on a thread of its own.
    """
    threading.Thread(target=_wait_stdin_closed, name="stdin", daemon=True).start()


def _wait_stdin_closed() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_LAST_WORDS_S)
    os._exit(1)
