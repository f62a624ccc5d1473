"""The embedded broker as a user runs it: `vigil broker run`, in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.server import ServerProcess, start_on_free_port

__all__ = ["EmbeddedBroker"]


class EmbeddedBroker:
    """amqtt on a free port of loopback.

    Args:
        folder: an existing folder for its log.
    """

    host = "127.0.0.1"

    def __init__(self, folder: Path) -> None:
        self.port = 0
        self._folder = folder
        self._server: ServerProcess | None = None

    @property
    def url(self) -> str:
        """Where it listens, once it was started."""
        return f"mqtt://{self.host}:{self.port}"

    def start(self) -> None:
        """Start it, after the first time on the same port, and wait until it takes connections."""
        if self._server is None:
            self._server, self.port = start_on_free_port(self._on_port)
        else:
            self._server.start()

    def _on_port(self, port: int) -> ServerProcess:
        command = [sys.executable, "-m", "console", "--log-format", "json", "broker", "run", "--port", str(port)]
        return ServerProcess(command, log=self._folder / "embedded.log", ready="broker.listening", start_timeout_s=30)

    def kill(self) -> None:
        """End it with SIGKILL; it keeps nothing anyway."""
        assert self._server is not None, "this broker was never started"
        self._server.kill()

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """End it."""
        self.kill()
