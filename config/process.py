"""The child processes of `vigil up` and `vigil node run`: started, watched, started again, stopped in order.

A role may die at any time and is started again after a back-off. A role that has not worked yet and leaves with words
of its own (``vigil: ...``) and a status that says "do not try again" has given up for good: the same settings would say
the same again. One that did work is always tried again, because they were good once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from config import Backoff
from config.errors import EXIT_CONFIG

__all__ = ["Departure", "RoleProcess", "role_command", "stop_in_order", "vigil_command"]

STEADY_S = 10.0
"""Seconds after which a role that was started counts as working, and its back-off starts over."""
LOG_BYTES_MAX = 10_000_000
"""Size at which a role's log is set aside; one older one is kept."""
_TAIL_BYTES = 8192
"""Of a log: enough for its first or last lines."""
_GIVES_UP = frozenset({1, 2, EXIT_CONFIG})
"""A failure that the role explains itself, wrong usage, wrong configuration; 69 (a service is away) is retried."""


def vigil_command(site_file: Path, arguments: Sequence[str], *, flags: Sequence[str] = ()) -> list[str]:
    """The command line of another Vigil process: this very Python and package, whatever is on PATH."""
    # -P: a folder named `config` where the person happens to be must not be imported in place of ours.
    return [sys.executable, "-P", "-m", "console", *flags, "--config", str(site_file), *arguments]


def role_command(site_file: Path, arguments: Sequence[str]) -> list[str]:
    """The command line of a role's process: it leaves when this process is gone."""
    return vigil_command(site_file, arguments, flags=("--until-stdin-closes",))


@dataclass(frozen=True, slots=True)
class Departure:
    """A role's process has ended without being asked to.

    Attributes:
        role: which.
        status: its exit status; negative is the number of the signal that ended it.
        words: the last thing it said; empty where it said nothing.
        for_good: it gave up: starting it again would end the same way.
        retry_s: seconds until it is started again.
    """

    role: str
    status: int
    words: str
    for_good: bool
    retry_s: float = 0.0

    @property
    def reason(self) -> str:
        """How it ended, in words."""
        if self.status < 0:
            return f"killed by {signal.Signals(-self.status).name}"
        return f"ended with status {self.status}"


class RoleProcess:
    """One role as a child process.

    It reads end-of-file on standard input when this process is gone, and leaves; it stands in a process group of its
    own, so that Ctrl-C reaches only this process, which then stops the roles in order.

    Attributes:
        restarts: how often it was started again.
        failures: how often it ended since it last worked for a while.
        has_worked: it ran for a while, or whoever watches it saw it at work and set this.

    Args:
        name: the role.
        command: its command line.
        log_file: where its output goes; what an earlier run left there is set aside.
        environment: its environment.
        backoff: delays between restarts.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log_file: Path,
        environment: Mapping[str, str],
        backoff: Backoff | None = None,
    ) -> None:
        self.name = name
        self.log_file = log_file
        self.restarts = 0
        self.failures = 0
        self.has_worked = False
        self._command = list(command)
        self._environment = dict(environment)
        self._backoff = backoff or Backoff(0.5, 10.0, floor_s=0.2)
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0
        self._retry_at_s: float | None = None
        self._log_start = 0
        log_file.parent.mkdir(parents=True, exist_ok=True)
        if log_file.exists():
            log_file.replace(log_file.with_suffix(".log.1"))

    @property
    def pid(self) -> int | None:
        """Its process, while there is one."""
        return self._process.pid if self._process is not None else None

    @property
    def running(self) -> bool:
        """Whether there is a process now."""
        return self._process is not None and self._process.poll() is None

    @property
    def started_s(self) -> float:
        """When it was started last, in monotonic seconds."""
        return self._started_s

    def start(self, now_s: float) -> None:
        """Start the process; `now_s` is monotonic seconds."""
        self._retry_at_s = None
        self._started_s = now_s
        with self.log_file.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=self._environment,
                process_group=0,
            )

    def tend(self, now_s: float) -> Departure | None:
        """Look after the process: start it again when that is due, tell when it has ended."""
        if self._process is None:
            if self._retry_at_s is not None and now_s >= self._retry_at_s:
                self.restarts += 1
                self.start(now_s)
            return None
        status = self._process.poll()
        if status is None:
            self._tend_running(now_s)
            return None
        return self._depart(status, now_s)

    def _tend_running(self, now_s: float) -> None:
        if now_s - self._started_s > STEADY_S and (self.failures or not self.has_worked):
            self.has_worked = True
            self.failures = 0
            self._backoff.reset()
        with suppress(OSError):  # of a disk that fails the process itself has more to say
            self._bound_log()

    def _bound_log(self) -> None:
        size = self.log_file.stat().st_size if self.log_file.exists() else 0
        if size > LOG_BYTES_MAX:
            # The child goes on writing at the end of the same file, so it is copied and emptied; on a full disk only
            # that.
            with suppress(OSError):
                self.log_file.with_suffix(".log.1").write_bytes(self.log_file.read_bytes())
            os.truncate(self.log_file, 0)
            self._log_start = 0

    def _depart(self, status: int, now_s: float) -> Departure:
        self._let_go()
        words, own = self._last_words()
        self.failures += 1
        if not self.has_worked and own and status in _GIVES_UP:
            return Departure(self.name, status, words, for_good=True)
        delay_s = self._backoff.delay_s()
        self._retry_at_s = now_s + delay_s
        return Departure(self.name, status, words, for_good=False, retry_s=delay_s)

    def _last_words(self) -> tuple[str, bool]:
        """The end of this run's log for a person, and whether the role spoke itself."""
        with self.log_file.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, size - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").strip().splitlines()
        for position in range(len(lines) - 1, -1, -1):
            if lines[position].startswith("vigil: "):
                return "\n".join(lines[position:]).removeprefix("vigil: "), True
        usage = [line for line in lines if line.startswith("Error: ")]
        if usage:
            return usage[-1].removeprefix("Error: "), True
        last = lines[-1] if lines else ""
        return ("" if last.startswith("{") else last), False  # a log line says what went well before

    def has_said(self, text: str) -> bool:
        """Whether `text` is in what its log begins with since its last start."""
        with self.log_file.open("rb") as log:
            log.seek(self._log_start)
            return text.encode() in log.read(_TAIL_BYTES)

    def ask_to_stop(self) -> None:
        """SIGTERM; it is not started again."""
        self._retry_at_s = None
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """SIGKILL, for a process that hangs; `tend` tells its end and starts it again."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def wait_stopped(self, timeout_s: float) -> bool:
        """Wait for the end of a process that was asked to stop; kill it when `timeout_s` is over.

        Returns:
            Whether it ended by itself.
        """
        if self._process is None:
            return True
        ended = True
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            ended = False
            self._process.kill()
            self._process.wait()
        self._let_go()
        return ended

    def _let_go(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None


def stop_in_order(roles: Sequence[RoleProcess], timeout_s: float) -> list[str]:
    """Stop roles one after the other, each with `timeout_s` for its orderly end; names of those that were killed."""
    killed = []
    for role in roles:
        role.ask_to_stop()
        if not role.wait_stopped(timeout_s):
            killed.append(role.name)
    return killed
