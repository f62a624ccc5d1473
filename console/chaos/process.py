"""One process of the mesh under test: started, broken in every way, started again."""

from __future__ import annotations

import contextlib
import resource
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import IO

import psutil

__all__ = ["OnLine", "VictimProcess"]

OnLine = Callable[[str, str], None]
"""Gets ``stdout`` or ``stderr``, and a line."""
_LAST_WORDS_S = 2.0
_LAST_LINES_S = 5.0
"""Seconds for what a process said before its end; a grandchild may hold the pipe for longer."""


class VictimProcess:
    """A child process that leaves with this one, and whose every line is heard.

    It has a process group of its own in this session: when this process is killed while that one is frozen, the kernel
    ends it (POSIX: an orphaned group with stopped members gets SIGHUP and SIGCONT). Its output goes through pipes,
    because a limit on its files would also hold for a log.

    Args:
        name: the role.
        command: its command line.
        environment: its environment.
        on_line: called from two threads, one a stream.

    Attributes:
        starts: how often it was started.
    """

    def __init__(self, name: str, command: Sequence[str], *, environment: Mapping[str, str], on_line: OnLine) -> None:
        self.name = name
        self.starts = 0
        self._command = list(command)
        self._environment = dict(environment)
        self._on_line = on_line
        self._process: subprocess.Popen[str] | None = None
        self._exit_status = 0
        self._readers: list[threading.Thread] = []

    def start(self) -> None:
        """Start it."""
        self._reap()
        self.starts += 1
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**self._environment, "PYTHONFAULTHANDLER": "1"},  # SIGABRT prints the stack of every thread
            process_group=0,
            text=True,
            errors="replace",
        )
        self._process = process
        self._readers = [
            threading.Thread(target=self._listen, args=(name, pipe), name=f"{self.name}-{name}", daemon=True)
            for name, pipe in (("stdout", process.stdout), ("stderr", process.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def _listen(self, name: str, pipe: IO[str] | None) -> None:
        if pipe is None:
            return
        with pipe:
            for line in pipe:
                self._on_line(name, line.rstrip("\n"))

    @property
    def running(self) -> bool:
        """Whether it runs now, frozen or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_status(self) -> int:
        """How it ended the last time; negative is the number of the signal that ended it."""
        return self._process.poll() or 0 if self._process is not None else self._exit_status

    def _family(self) -> list[psutil.Process]:
        """Its children, such as the Mosquitto of a broker, and itself, the children first."""
        if self._process is None or not self.running:
            return []
        try:
            own = psutil.Process(self._process.pid)
            return [*own.children(recursive=True), own]
        except psutil.NoSuchProcess:
            return []

    def _signal(self, number: signal.Signals) -> None:
        for one in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, to its children first, so that they get no orderly end, and wait for that."""
        self._signal(signal.SIGKILL)
        self._reap()

    def freeze(self) -> None:
        """SIGSTOP: its connections stay, nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def ask_to_stop(self) -> None:
        """SIGTERM, to it alone."""
        if self._process is not None:
            self._process.terminate()  # does nothing to one that has ended

    def wait_stopped(self, timeout_s: float) -> bool:
        """Wait for its end; False when it had to be killed, after telling where each of its threads is."""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGABRT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_LAST_WORDS_S)
            self.kill()
            return False
        self._reap()
        return True

    def limit_files(self, size_bytes: int | None) -> None:
        """Let every write beyond this size of a file fail; None lifts the limit."""
        if self._process is None or not self.running:
            return
        with contextlib.suppress(ProcessLookupError):
            _, hard = resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE)
            soft = hard if size_bytes is None else size_bytes
            resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (soft, hard))

    def _reap(self) -> None:
        """Let go of a process that has ended, once everything that it said is heard."""
        if self._process is None:
            return
        self._exit_status = self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        for reader in self._readers:
            reader.join(_LAST_LINES_S)
        self._process = None
