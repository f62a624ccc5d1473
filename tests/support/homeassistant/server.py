"""One Home Assistant that a test may restart and kill."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tests.support.homeassistant.client import HomeAssistant
from tests.support.homeassistant.installation import Installation
from tests.support.homeassistant.storage import access_token, write_storage
from tests.support.server import PortTakenError, Server, ServerProcess, start_on_free_port

__all__ = ["HomeAssistantServer"]

_START_TIMEOUT_S = 240.0  # 5 s, and many times as long on a machine with much else to do
_COMPLAINT = re.compile(r"^\S+ \S+ (?:WARNING|ERROR|CRITICAL) .*(?:\n(?!\d{4}-\d\d-\d\d ).*)*", re.MULTILINE)
_SKIPS_PIP = "Skipping pip installation"  # said before any setting holds


class HomeAssistantServer(Server, HomeAssistant):
    """A Home Assistant of the test's own, set up, with a broker: no onboarding, no bluetooth, no recorder.

    Args:
        folder: an empty folder for its configuration, log and registries.
        installation: which.
        broker_port: the broker's, on loopback.
        prefix: of MQTT discovery.
        settings: further lines of its ``configuration.yaml``.
    """

    def __init__(
        self,
        folder: Path,
        installation: Installation,
        *,
        broker_port: int,
        prefix: str = "homeassistant",
        settings: str = "",
    ) -> None:
        self.folder = folder
        self._installation = installation
        self._broker_port = broker_port
        self._prefix = prefix
        self._settings = settings

    def start(self) -> None:
        """Start it, after the first time on the same port, and wait until it has started everything.

        Raises:
            ServerDiedError: it ended before; the message carries the end of its log.
            InstallationError: it cannot be installed.
        """
        if self._process is None:
            self._process, _ = start_on_free_port(self._on_port)
        else:
            self._process.start()

    def complaints(self) -> list[str]:
        """Warnings and errors in its log since its last start, with what belongs to them."""
        return [complaint for complaint in _COMPLAINT.findall(self.said()) if _SKIPS_PIP not in complaint]

    def _on_port(self, port: int) -> ServerProcess:
        key = write_storage(
            self.folder, port=port, broker_port=self._broker_port, prefix=self._prefix, more=self._settings
        )
        self.url, self.token = f"http://127.0.0.1:{port}", access_token(key)
        command = [str(self._installation.program()), "--config", str(self.folder), "--skip-pip", "--log-no-color"]
        return _Hass(command, self, log=self.folder / "output.log")


class _Hass(ServerProcess):
    """It is ready when it has started everything; without its port it would go on, and serve nobody."""

    def __init__(self, command: Sequence[str], client: HomeAssistant, *, log: Path) -> None:
        super().__init__(command, log=log, ready="Now listening on port", start_timeout_s=_START_TIMEOUT_S)
        self._client = client

    def _is_ready(self) -> bool:
        if "Failed to create HTTP server" in self.said():
            raise PortTakenError(self.said())
        return super()._is_ready() and self._client.is_running()
