"""The embedded broker as a user runs it: `vigil broker run`, in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.server import Server, ServerProcess, start_on_free_port

__all__ = ["EmbeddedBroker"]


class EmbeddedBroker(Server):
    """amqtt on a free port of loopback.

    Args:
        folder: an existing folder for its log.
    """

    host = "127.0.0.1"

    def __init__(self, folder: Path) -> None:
        self.port = 0
        self._folder = folder

    @property
    def url(self) -> str:
        """Where it listens, once it was started."""
        return f"mqtt://{self.host}:{self.port}"

    def start(self) -> None:
        """Start it, after the first time on the same port, and wait until it takes connections."""
        if self._process is None:
            self._process, self.port = start_on_free_port(self._on_port)
        else:
            self._process.start()

    def _on_port(self, port: int) -> ServerProcess:
        command = [sys.executable, "-m", "console", "--log-format", "json", "broker", "run", "--port", str(port)]
        return ServerProcess(command, log=self._folder / "embedded.log", ready="broker.listening", start_timeout_s=30)
