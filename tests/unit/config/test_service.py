from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.service import Service
from tests.support.waiting import wait_until


class Systemd:
    """Its side of the notify socket."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1))
        self.environment = {"NOTIFY_SOCKET": address}

    def heard(self, timeout_s: float = 20.0) -> list[str]:
        self._socket.settimeout(timeout_s)
        return self._socket.recv(4096).decode().split("\n")

    def heard_nothing(self) -> bool:
        self._socket.settimeout(0)
        try:
            self._socket.recv(4096)
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@vigil-test-{os.getpid()}-{id(request)}"
    listener = Systemd(address)
    yield listener
    listener.close()


def test_it_is_ready_feeds_the_watchdog_and_says_when_it_stops(systemd: Systemd) -> None:
    states = iter(["2 cameras", "3 cameras"])
    watchdog = {"WATCHDOG_USEC": "60000", "WATCHDOG_PID": str(os.getpid())}
    service = Service(lambda: next(states, "well"), environment=systemd.environment | watchdog, frozen=list)
    service.ready()
    assert systemd.heard() == ["READY=1", "STATUS=2 cameras"]
    assert systemd.heard() == ["WATCHDOG=1", "STATUS=3 cameras"]
    assert systemd.heard() == ["WATCHDOG=1", "STATUS=well"]
    service.stopping()
    while (said := systemd.heard())[0] == "WATCHDOG=1":
        pass
    assert said == ["STOPPING=1", "STATUS=Stopping"]
    assert systemd.heard_nothing()


def test_it_lets_the_watchdog_starve_while_a_thread_hangs(systemd: Systemd, capsys: pytest.CaptureFixture[str]) -> None:
    hanging: list[str] = []
    environment = systemd.environment | {"WATCHDOG_USEC": "30000"}
    service = Service(lambda: "well", environment=environment, frozen=lambda: list(hanging))
    service.ready()
    assert systemd.heard()[0] == "READY=1"
    hanging.append("camera-yard")
    wait_until(lambda: systemd.heard() == ["STATUS=Hangs: camera-yard"])
    assert [systemd.heard() for _ in range(3)] == [["STATUS=Hangs: camera-yard"]] * 3
    hanging.clear()
    wait_until(lambda: systemd.heard() == ["WATCHDOG=1", "STATUS=well"])
    service.stopping()
    assert capsys.readouterr().out.count("service.frozen") == 1


@pytest.mark.parametrize("watchdog", [{}, {"WATCHDOG_USEC": "30000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "?"}])
def test_a_watchdog_that_is_not_asked_for_is_not_hurried(systemd: Systemd, watchdog: dict[str, str]) -> None:
    service = Service(lambda: "well", environment=systemd.environment | watchdog, frozen=list)
    service.ready()
    assert [systemd.heard()[0] for _ in range(2)] == ["READY=1", "WATCHDOG=1"]
    with pytest.raises(TimeoutError):
        systemd.heard(timeout_s=0.2)
    service.stopping()


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": "vsock:2:1"}, {"NOTIFY_SOCKET": "/nonexistent/notify"}])
def test_without_systemd_nothing_happens(environment: dict[str, str]) -> None:
    service = Service(lambda: "well", environment=environment, frozen=list)
    service.ready()
    service.stopping()
