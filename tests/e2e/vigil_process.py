"""The `vigil` command as a person runs it: a process of its own, with its output read as it comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.waiting import wait_until

__all__ = ["Vigil", "run_vigil"]

_ROOT = Path(__file__).parents[2]


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-P", "-m", "console", *arguments]


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VIGIL_")}
    return {**kept, "PYTHONPATH": str(_ROOT), "PYTHONUNBUFFERED": "1", **extra}


def run_vigil(
    *arguments: str,
    timeout_s: float = 60,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    typed: str = "",
) -> tuple[int, str, str]:
    """Run it to its end with what is typed on standard input: status, output, errors."""
    done = subprocess.run(
        _command(arguments),
        input=typed,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        cwd=cwd,
        env=_environment(environment or {}),
    )
    return done.returncode, done.stdout, done.stderr


class Vigil:
    """One that goes on running.

    Args:
        arguments: of the command line.
        folder: where its output is kept.
        environment: on top of this process's own.
    """

    def __init__(self, *arguments: str, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self._arguments = arguments
        self._environment = _environment(environment or {})
        self._out = folder / "vigil.out"
        self._err = folder / "vigil.err"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                _command(self._arguments), stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=self._environment
            )
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def output(self) -> str:
        return self._out.read_text(errors="replace")

    @property
    def errors(self) -> str:
        return self._err.read_text(errors="replace")

    def wait_said(self, text: str, timeout_s: float = 30.0) -> None:
        def said() -> bool:
            assert self.process.poll() is None or text in self.output, f"it ended:\n{self.output}\n{self.errors}"
            return text in self.output

        wait_until(said, timeout_s=timeout_s, what=f"{text!r} in the output of vigil")

    def wait_end(self, timeout_s: float = 60.0) -> int:
        return self.process.wait(timeout_s)

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)
