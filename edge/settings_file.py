"""The node's settings as they are on disk now."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from config import ConfigError
from config.files import FileWatch
from config.settings import Settings
from edge.uris import parse_source

__all__ = ["SettingsFile", "check_sources"]


def check_sources(settings: Settings, *, waits: bool = False) -> None:
    """Read the source of every camera without opening any.

    Args:
        settings: the site's settings.
        waits: whether the site may give cameras to this node, so that it may begin without any.

    Raises:
        ConfigError: there is no camera, or one of them is wrong.
    """
    if not settings.cameras and not waits:
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
        waits: as :func:`check_sources` has it.
    """

    def __init__(
        self, path: Path | None, reread: Callable[[], Settings], asked: threading.Event, *, waits: bool = False
    ) -> None:
        self._watch = FileWatch(path)
        self._reread = reread
        self._asked = asked
        self._waits = waits

    def has_changed(self, now_s: float) -> bool:
        """Whether to read it again: it is another file than at the last look, or somebody asked; looks now and then."""
        if self._asked.is_set():
            self._asked.clear()
            self._watch.look()
            return True
        return self._watch.has_changed(now_s)

    def read(self) -> Settings:
        """The settings as they are now.

        Raises:
            ConfigError: they cannot be used.
        """
        settings = self._reread()
        check_sources(settings, waits=self._waits)
        return settings
