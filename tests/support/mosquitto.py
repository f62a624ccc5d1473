"""A real Mosquitto, up in some 15 ms, on a free port of loopback."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.support.server import Server, ServerProcess, start_on_free_port

__all__ = ["Mosquitto", "mosquitto_program"]


def mosquitto_program() -> str | None:
    """The program; Debian keeps it out of an ordinary user's PATH."""
    return shutil.which("mosquitto", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")


class Mosquitto(Server):
    """One Mosquitto that lets everybody in.

    Args:
        folder: an empty folder for its configuration, log and store.
        persistent: keep sessions, queues and retained messages over a restart; saved once a second.
        settings: further lines of its configuration.

    Raises:
        ServerDiedError: from `start()`, when it does not take its configuration.
    """

    host = "127.0.0.1"

    def __init__(self, folder: Path, *, persistent: bool = False, settings: Sequence[str] = ()) -> None:
        self.port = 0
        self._folder = folder
        self._persistent = persistent
        self._settings = settings

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

    def restart(self, *, forget: bool = False) -> None:
        """End it with SIGTERM and start it again, without what it stored when it is to forget."""
        self.stop()
        if forget:
            self.forget()
        self.start()

    def forget(self) -> None:
        """Delete what a stopped one stored."""
        (self._folder / "mosquitto.db").unlink(missing_ok=True)

    def _on_port(self, port: int) -> ServerProcess:
        program = mosquitto_program()
        assert program is not None, "no mosquitto here: sudo apt-get install mosquitto"
        config = self._folder / "mosquitto.conf"
        lines = [
            f"listener {port} {self.host}",
            "allow_anonymous true",
            "log_dest stderr",
            f"persistence {str(self._persistent).lower()}",
            f"persistence_location {self._folder}/",
            "autosave_interval 1",
            *(["user root"] if os.geteuid() == 0 else []),  # else it changes its user and cannot write here
            *self._settings,
        ]
        config.write_text("\n".join(lines) + "\n")
        return ServerProcess(
            [program, "-c", str(config)],
            log=self._folder / "mosquitto.log",
            ready=" running",
            start_timeout_s=20,
        )
