"""Wills and births of a real process, on both brokers that Vigil runs."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from broker import Bus, Delivery, listen
from broker.messages import NodeHealth, NodeStatus
from broker.topics import CAMERA_STATE, NODE_HEALTH, NODE_STATUS
from config.settings import BusSettings, Settings
from tests.support.embedded import EmbeddedBroker
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
SITE_FILE = "site: home\nnode: node-1\nbus: {keepalive_s: 2}\ncameras: {street: {source: 'synthetic:street?fps=2'}}\n"


class Server(Protocol):
    @property
    def url(self) -> str: ...

    def kill(self) -> None: ...

    def start(self) -> None: ...


@pytest.fixture(params=["mosquitto", "amqtt"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    if request.param == "mosquitto":
        yield request.getfixturevalue("mosquitto")
    else:
        with EmbeddedBroker(tmp_path) as embedded:
            yield embedded


@contextlib.contextmanager
def edge(folder: Path, url: str) -> Iterator[subprocess.Popen[bytes]]:
    (folder / "site.yaml").write_text(SITE_FILE)
    vigil = [sys.executable, "-m", "console", "--config", str(folder / "site.yaml"), "--bus", url]
    with (folder / "edge.log").open("ab") as log:
        process = subprocess.Popen(
            [*vigil, "--state", str(folder / "state"), "edge"], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def watch(url: str, into: list[Delivery]) -> Bus:
    bus = listen(Settings(site="home", node="node-2", bus=BusSettings(url=url)), "test")
    for spec in (NODE_STATUS, NODE_HEALTH, CAMERA_STATE):
        bus.subscribe(spec, into.append)
    bus.start()
    assert bus.wait_connected(30)
    return bus


def states(seen: list[Delivery]) -> list[str]:
    return [delivery.content.state for delivery in list(seen) if isinstance(delivery.content, NodeStatus)]


def test_a_process_whose_will_came_while_it_was_frozen_says_that_it_is_back(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """On Mosquitto only: amqtt 0.12.1 never ends the connection of a client that has fallen silent."""
    seen: list[Delivery] = []
    bus = watch(mosquitto.url, seen)
    with edge(tmp_path, mosquitto.url) as process:
        wait_until(lambda: states(seen)[-1:] == ["online"], timeout_s=60)
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: states(seen)[-1:] == ["offline"], timeout_s=30, what="the will")
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: states(seen)[-1:] == ["online"], timeout_s=30, what="the birth after the will")
        late: list[Delivery] = []
        other = watch(mosquitto.url, late)
        wait_until(lambda: states(late))
        assert set(states(late)) == {"online"}
        other.close(0)
    bus.close(0)


def test_a_broker_that_forgot_is_told_everything_again_and_health_tells_of_the_connection(
    server: Server, tmp_path: Path
) -> None:
    seen: list[Delivery] = []
    bus = watch(server.url, seen)
    with edge(tmp_path, server.url):
        wait_until(lambda: states(seen)[-1:] == ["online"], timeout_s=60)
        wait_until(lambda: any(delivery.topic.spec is CAMERA_STATE for delivery in seen), timeout_s=30)
        server.kill()
        server.start()
        late: list[Delivery] = []
        other = watch(server.url, late)
        wait_until(lambda: states(late)[-1:] == ["online"], timeout_s=30, what="the birth again")
        wait_until(lambda: any(delivery.topic.spec is CAMERA_STATE for delivery in late), what="the camera's state")
        wait_until(lambda: health(late), timeout_s=30)
        other.close(0)
    bus.close(0)
    counts, drops, queues = health(late)[-1].counts, health(late)[-1].drops, health(late)[-1].queues
    assert counts["connections"] == 2
    assert counts["states_republished"] >= 4
    assert counts["lost_closed"] == 1
    assert counts["mqtt_version"] in {3, 5}
    assert {"frames_expired", "frames_stale", "rejected", "refused", "acks_ignored", "released"} <= drops.keys()
    assert {"outbox", "unacknowledged", "awaiting_receipt"} <= queues.keys()


def health(seen: list[Delivery]) -> list[NodeHealth]:
    return [delivery.content for delivery in list(seen) if isinstance(delivery.content, NodeHealth)]
