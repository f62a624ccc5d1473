"""Workers that share cameras, on real brokers: a process that is killed, a planned stop, a broker that comes back."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker import Bus, assignment, connect
from broker.messages import CameraState
from broker.topics import CAMERA_STATE
from config.settings import BusSettings, Settings
from detector.ownership import Offer, Ownership
from tests.support.embedded import EmbeddedBroker
from tests.support.mosquitto import Mosquitto
from tests.support.server import Server
from tests.support.waiting import wait_until

CAMERAS = tuple(f"camera-{number}" for number in range(8))
VICTIM = """
import sys, threading
from pathlib import Path
from broker import connect
from config.settings import BusSettings, Settings
from detector.ownership import Offer, Ownership
settings = Settings(node="two", state_dir=Path(sys.argv[2]), bus=BusSettings(url=sys.argv[1]))
bus = connect(settings, "detector")
ownership = Ownership(bus, lambda: Offer(1000.0))
ownership.start(lambda _camera, _epoch: None, lambda _camera: None)
bus.start()
threading.Event().wait(120)
"""


class Worker:
    """An ownership in this process, on a connection of its own."""

    def __init__(self, url: str, folder: Path, node: str) -> None:
        self.bus = bus_of(url, folder, node, "detector")
        self.own: dict[str, int] = {}
        self.ownership = Ownership(self.bus, lambda: Offer(100.0))
        self.ownership.start(self.own.__setitem__, self._on_loss)
        self.bus.start()

    def _on_loss(self, camera: str) -> None:
        self.own.pop(camera, None)

    def close(self) -> None:
        self.ownership.close()
        self.bus.close(0)


def bus_of(url: str, folder: Path, node: str, role: str) -> Bus:
    return connect(Settings(node=node, state_dir=folder / node, bus=BusSettings(url=url)), role)


@pytest.fixture(params=["mosquitto", "embedded"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "broker"
    folder.mkdir()
    with Mosquitto(folder, persistent=True) if request.param == "mosquitto" else EmbeddedBroker(folder) as running:
        yield running


def shares_of(*nodes: str) -> tuple[set[str], ...]:
    """What falls to each of some equal workers."""
    workers = [assignment.Worker(f"{node}.detector", 100.0) for node in nodes]
    owners = assignment.assign(workers, [assignment.Demand(camera, 2.0) for camera in CAMERAS]).owners
    return tuple({camera for camera, owner in owners.items() if owner == worker.name} for worker in workers)


def url_of(server: Server) -> str:
    assert isinstance(server, Mosquitto | EmbeddedBroker)
    return server.url


@contextlib.contextmanager
def announced_cameras(url: str, folder: Path) -> Iterator[Bus]:
    bus = bus_of(url, folder, "node-1", "edge")
    bus.start()
    assert bus.wait_connected(30)
    for camera in CAMERAS:
        state = CameraState(camera=camera, state="online", node="node-1", at=datetime.now(UTC), demand_fps=2.0)
        bus.publish(CAMERA_STATE.at("home", camera=camera), state)
    yield bus
    bus.close(0)


def test_shares_outlast_a_restart_of_the_broker_and_a_planned_stop_gives_them_away(
    server: Server, tmp_path: Path
) -> None:
    url = url_of(server)
    with announced_cameras(url, tmp_path), contextlib.ExitStack() as stack:
        one = Worker(url, tmp_path, "one")
        stack.callback(one.close)
        wait_until(lambda: set(one.own) == set(CAMERAS), what="everything for the only worker")
        two = Worker(url, tmp_path, "two")
        stack.callback(two.close)
        shares = shares_of("one", "two")
        wait_until(lambda: (set(one.own), set(two.own)) == shares, what="shares")
        before = dict(one.own), dict(two.own)
        connections = one.bus.connections, two.bus.connections
        server.stop()
        server.start()
        wait_until(lambda: one.bus.connections > connections[0] and two.bus.connections > connections[1], what="both")
        wait_until(lambda: all(one.ownership.epoch(camera) for camera in one.own), what="the lease of one")
        wait_until(lambda: all(two.ownership.epoch(camera) for camera in two.own), what="the lease of two")
        assert (one.own, two.own) == before
        # Its own beat may come back before what the broker kept of the other.
        wait_until(lambda: one.ownership._pool.workers()[1:], what="word of the other")
        one.ownership.drain(60)
        assert one.own == {}
        wait_until(lambda: set(two.own) == set(CAMERAS), what="everything for the one that stays")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_the_cameras_of_a_worker_that_dies_or_freezes_are_taken_over(how: signal.Signals, tmp_path: Path) -> None:
    folder = tmp_path / "broker"
    folder.mkdir()
    with Mosquitto(folder) as server, announced_cameras(server.url, tmp_path), contextlib.ExitStack() as stack:
        one = Worker(server.url, tmp_path, "one")
        stack.callback(one.close)
        wait_until(lambda: set(one.own) == set(CAMERAS), what="everything for the only worker")
        command = [sys.executable, "-c", VICTIM, server.url, str(tmp_path / "two")]
        victim = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        stack.callback(victim.wait, 30)
        stack.callback(victim.kill)
        wait_until(lambda: len(one.own) < len(CAMERAS), what="a share of the other")
        victim.send_signal(how)
        wait_until(lambda: set(one.own) == set(CAMERAS), what="its cameras")
