"""The node's settings as they are on disk now."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from config import ConfigError
from config.settings import Settings
from edge.uris import parse_source

__all__ = ["SettingsFile", "check_sources"]

_LOOK_EVERY_S = 2.0


def check_sources(settings: Settings) -> None:
    """Read the source of every camera without opening any.

    Raises:
        ConfigError: there is no camera, or one of them is wrong.
    """
    if not settings.cameras:
        raise ConfigError("there is no camera; add one, or give --camera NAME=SOURCE", field="cameras")
    for name, camera in settings.cameras.items():
        for field, uri in (("source", camera.source), ("sub_source", camera.sub_source)):
            try:
                if uri is not None:
                    parse_source(uri)
            except ConfigError as error:
                raise ConfigError(error.message, field=f"cameras.{name}.{field}") from error


class SettingsFile:
    """Looks whether the site file has changed, and reads it again.

    Concurrency: one thread; `asked` may be set from any.

    Args:
        path: the file; None where there is none.
        reread: reads the settings as at the start: file, environment and flags.
        asked: set by whoever wants it to be read again, as SIGHUP does.
    """

    def __init__(self, path: Path | None, reread: Callable[[], Settings], asked: threading.Event) -> None:
        self._path = path
        self._reread = reread
        self._asked = asked
        self._seen = self._signature()
        self._look_s = 0.0

    def has_changed(self, now_s: float) -> bool:
        """Whether to read it again: it is another file than at the last look, or somebody asked; looks now and then."""
        if self._asked.is_set():
            self._asked.clear()
            self._seen = self._signature()
            return True
        if now_s < self._look_s:
            return False
        self._look_s = now_s + _LOOK_EVERY_S
        before, self._seen = self._seen, self._signature()
        # One that is not there is being replaced, or away with its disk; the node goes on with what it has.
        return self._seen is not None and self._seen != before

    def read(self) -> Settings:
        """The settings as they are now.

        Raises:
            ConfigError: they cannot be used.
        """
        settings = self._reread()
        check_sources(settings)
        return settings

    def _signature(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat() if self._path is not None else None
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_size, found.st_ino) if found is not None else None
