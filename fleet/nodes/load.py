"""How the commands of this component are handed their settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from config.settings import Settings

__all__ = ["Load"]


class Load(Protocol):
    """Reads the settings; the console's loader does."""

    def __call__(self, overrides: Mapping[str, Any] | None = None) -> Settings:
        """Read them with a command's own flags above them, and set up the logs."""
        ...

    def read(self, overrides: Mapping[str, Any] | None = None) -> Settings:
        """Read them, and leave the logs alone: standard output is the command's result."""
        ...
