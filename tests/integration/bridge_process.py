"""The bridge in a process of its own, between a real broker and its sink."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bridge.journal import JournalReader
from broker import Bus
from config.settings import BusSettings, OutboxSettings, Settings
from tests.support.waiting import wait_until

__all__ = ["Bridge", "settings_for", "wait_delivered"]


class Bridge:
    """`vigil bridge` as a user runs it.

    Args:
        url: of the broker.
        state: the state folder.
        arguments: of `vigil bridge`.
        program: what stands in for `vigil`.
    """

    def __init__(
        self, url: str, state: Path, arguments: Sequence[str] = (), *, program: Sequence[str] = ("-m", "console")
    ) -> None:
        self.state = state
        self.root = [sys.executable, *program, "--bus", url, "--node", "node-1", "--state", str(state)]
        self._arguments = arguments
        self._process: subprocess.Popen[str] | None = None
        self.said: list[dict[str, Any]] = []

    def start(self) -> None:
        """Start it, and wait until it is on the bus."""
        command = [*self.root, "--log-format", "json", "bridge", *self._arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.said = []
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()
        wait_until(lambda: self.heard("bus.connected"), timeout_s=30, what="the bridge")

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self.said.append(json.loads(line))

    def heard(self, event: str) -> Mapping[str, Any] | None:
        """The first log line with this event."""
        return next((line for line in list(self.said) if line["event"] == event), None)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it with a signal; its exit status."""
        if self._process is None:
            return 0
        self._process.send_signal(number)
        status = self._process.wait(30)
        self._process = None
        return status

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process is not None and self._process.poll() is None

    def wait(self) -> int:
        """Wait until it ends by itself; its exit status."""
        assert self._process is not None
        status = self._process.wait(30)
        self._process = None
        return status

    def close(self) -> None:
        """End it if it runs."""
        if self._process is not None:
            self.kill()

    def kill(self) -> None:
        """End it the hard way."""
        assert self.stop(signal.SIGKILL) == -signal.SIGKILL

    def ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another command on the same state."""
        return subprocess.run([*self.root, *arguments], capture_output=True, text=True, check=False, timeout=60)

    def stored(self, stream: str = "camera_escalation") -> list[int]:
        """The sequences of one kind in its journal, in order of arrival."""
        path = self.state / "journal.db"
        if not path.exists():
            return []
        reader = JournalReader(path)
        found = [seq for found, _, _, seq in reader.identities() if found == stream]
        reader.close()
        return found


def settings_for(url: str, state: Path, node: str = "node-1") -> Settings:
    """Of a process that sends again soon."""
    bus = BusSettings(url=url, outbox=OutboxSettings(resend_after_s=0.5))
    return Settings(node=node, state_dir=state, bus=bus)


def wait_delivered(*buses: Bus) -> None:
    """Wait until nothing is without a receipt."""
    wait_until(lambda: not any(bus.statistics().outbox_rows for bus in buses), timeout_s=60, what="every receipt")
