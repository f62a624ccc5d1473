"""A role as systemd sees it: a real process and a real notify socket."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ports import free_port


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(60)
        yield listener


@pytest.mark.parametrize(
    ("arguments", "state"),
    [
        (("edge", "--camera", "yard=synthetic:street?width=160&height=120"), "=1 cameras, "),
        (("node", "run"), "0 of 0 processes; "),
        (("bridge",), "broker away"),
    ],
)
def test_a_role_without_a_broker_is_ready_feeds_its_watchdog_and_stops_in_order(
    systemd: socket.socket, tmp_path: Path, arguments: tuple[str, ...], state: str
) -> None:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("VIGIL_")},
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "WATCHDOG_USEC": "150000",
    }
    command = [sys.executable, "-P", "-m", "console", "--bus", f"mqtt://127.0.0.1:{free_port()}"]
    command += ["--state", str(tmp_path / "state"), *arguments]
    with subprocess.Popen(
        command, env=environment, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as process:
        try:
            heard = [systemd.recv(4096).decode().split("\n") for _ in range(4)]
            process.send_signal(signal.SIGTERM)
            while (last := systemd.recv(4096).decode().split("\n"))[0] == "WATCHDOG=1":
                pass
            status = process.wait(60)
        finally:
            process.kill()
    assert [lines[0] for lines in heard] == ["READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1"]
    assert all(line.startswith("STATUS=") and state in line and line.endswith("broker away") for _, line in heard)
    assert last == ["STOPPING=1", "STATUS=Stopping"]
    assert status == 0
