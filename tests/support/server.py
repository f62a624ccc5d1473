"""A real server in a process of its own, for as long as a test wants it."""

from __future__ import annotations

import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.ports import free_port
from tests.support.waiting import wait_until

__all__ = ["PortTakenError", "Server", "ServerDiedError", "ServerProcess", "start_on_free_port"]

_STOP_TIMEOUT_S = 40.0
_ATTEMPTS = 5


class ServerDiedError(AssertionError):
    """The server ended before it was ready; the message carries the end of its log."""


class PortTakenError(ServerDiedError):
    """It ended because somebody else listens on its port."""


class ServerProcess:
    """Starts a command, waits until its log says that it is ready, and ends it by its process id.

    The log is what makes it ready, not an open port: a port may be somebody else's.

    Args:
        command: the program and its arguments.
        log: file that its output is appended to.
        ready: text in the output that says that it takes connections.
        start_timeout_s: how long that may take.
    """

    def __init__(self, command: Sequence[str], *, log: Path, ready: str, start_timeout_s: float) -> None:
        self._command = list(command)
        self._log = log
        self._ready = ready
        self._start_timeout_s = start_timeout_s
        self._log_start = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None, f"{self._command[0]} does not run"
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it is ready.

        Raises:
            PortTakenError: it cannot listen on its port.
            ServerDiedError: it ended for another reason.
        """
        assert self._process is None, f"{self._command[0]} runs already"
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            wait_until(self._is_ready, timeout_s=self._start_timeout_s, what=f"{self._command[0]}'s {self._ready!r}")
        except BaseException:
            self.kill()
            raise

    def _is_ready(self) -> bool:
        assert self._process is not None
        ended = self._process.poll() is not None
        said = self.said()
        if self._ready in said and not ended:
            return True
        if ended:
            kind = PortTakenError if "already in use" in said else ServerDiedError
            tail = "\n".join(said.splitlines()[-30:])
            raise kind(f"{self._command[0]} ended with {self._process.returncode}:\n{tail}")
        return False

    def said(self) -> str:
        """What it wrote since its last start."""
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def stop(self) -> None:
        """Ask it to end (SIGTERM), and wait for that."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it on the spot (SIGKILL)."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        self._process.send_signal(signal.SIGCONT)  # a frozen one takes no SIGTERM
        self._process.wait(_STOP_TIMEOUT_S)
        self._process = None

    def freeze(self) -> None:
        """Stop its clock (SIGSTOP): its connections stay open, and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen one go on (SIGCONT)."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


def start_on_free_port(make: Callable[[int], ServerProcess]) -> tuple[ServerProcess, int]:
    """Start a server on a port that is free, again on another one when somebody was quicker.

    Args:
        make: makes the server, not started, for a port.

    Returns:
        The running server and its port.
    """
    for _ in range(_ATTEMPTS):
        port = free_port()
        server = make(port)
        try:
            server.start()
        except PortTakenError:
            continue
        return server, port
    raise AssertionError(f"{_ATTEMPTS} ports were taken the moment they were found free")


class Server(ABC):
    """A real server that a test may end, freeze, and start again where it was."""

    _process: ServerProcess | None = None
    """Set by the first `start`."""

    @abstractmethod
    def start(self) -> None:
        """Start it, after the first time on the same port, and wait until it serves."""

    @property
    def pid(self) -> int:
        """The process id, for as long as it runs."""
        return self._running().pid

    def stop(self) -> None:
        """End it with SIGTERM, so that it keeps what it keeps."""
        self._running().stop()

    def kill(self) -> None:
        """End it with SIGKILL: it saves nothing more."""
        self._running().kill()

    def freeze(self) -> None:
        """Stop its clock (SIGSTOP): connections stay open, and nothing answers."""
        self._running().freeze()

    def thaw(self) -> None:
        """Let a frozen one go on."""
        self._running().thaw()

    def said(self) -> str:
        """Its log since its last start."""
        return self._running().said()

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """End it; what it kept goes with its folder, so it need not tidy up."""
        if self._process is not None:
            self._process.kill()

    def _running(self) -> ServerProcess:
        assert self._process is not None, f"this {type(self).__name__} was never started"
        return self._process
