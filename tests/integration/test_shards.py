"""Several bridges at one Kafka: one dies or freezes, and its cameras are another's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pytest

from bridge.shards import shard_of
from broker import Bus, Delivery, connect, listen
from broker.messages import BridgeBeat
from broker.topics import CAMERA_ESCALATION, NODE_BRIDGE_BEAT
from config.errors import VigilError
from config.settings import BusSettings, OutboxSettings, Settings
from tests.support.kafka import Kafka, Record
from tests.support.messages import escalation
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
SHARDS = 4
CAMERAS = tuple(f"camera-{number}" for number in range(8))
Mode = Literal["at-least-once", "exactly-once"]


class Bridges:
    """Bridges with one Kafka, and somebody who raises alarms of eight cameras."""

    def __init__(self, folder: Path, mosquitto: Mosquitto, kafka: Kafka, mode: Mode) -> None:
        self.folder, self.mosquitto, self.kafka = folder, mosquitto, kafka
        name = uuid.uuid4().hex[:8]
        self.topic = f"shards-{name}"
        self.site = f"home-{name}"
        topics = {"escalation": self.topic, "dead_letters": f"dead-{name}", "ledger": f"ledger-{name}"}
        kafka_settings = {"bootstrap": kafka.bootstrap, "mode": mode, "topics": topics}
        self.file = folder / "site.yaml"
        section = {"kafka": kafka_settings, "shards": SHARDS, "forward": [], "drain_journal": False}
        self.file.write_text(json.dumps({"site": self.site, "bridge": section}))  # YAML is JSON too
        self.own: dict[str, tuple[int, ...]] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.watcher = listen(self._settings("watcher"), "test")
        self.watcher.subscribe(NODE_BRIDGE_BEAT, self._on_beat)
        self.watcher.start()
        self.sender = self._sender()
        self.raised: list[str] = []
        self._stop = threading.Event()
        self._raiser = threading.Thread(target=self._raise, daemon=True)

    def _settings(self, node: str) -> Settings:
        bus = BusSettings(url=self.mosquitto.url, outbox=OutboxSettings(resend_after_s=1.0))
        return Settings(site=self.site, node=node, state_dir=self.folder / "sender", bus=bus)

    def _sender(self) -> Bus:
        bus = connect(self._settings("gpu"), "detector", with_outbox=True)
        bus.start()
        assert bus.wait_connected(30)
        return bus

    def _on_beat(self, delivery: Delivery) -> None:
        if isinstance(delivery.content, BridgeBeat):
            self.own[delivery.content.bridge] = delivery.content.own

    def command(self, node: str, *arguments: str) -> list[str]:
        command = [sys.executable, "-m", "console", "--config", str(self.file), "--bus", self.mosquitto.url]
        return [*command, "--node", node, "--state", str(self.folder / node), *arguments]

    def start(self, node: str) -> None:
        with (self.folder / f"{node}.log").open("ab") as log:
            process = subprocess.Popen(self.command(node, "bridge"), cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        self.processes[node] = process

    def said(self, node: str) -> str:
        return (self.folder / f"{node}.log").read_text()

    def wait_split(self, *nodes: str) -> None:
        """Until these have everything between them."""

        def is_split() -> bool:
            for node in nodes:
                assert self.processes[node].poll() is None, self.said(node)
            shares = [self.own.get(f"{node}.bridge", ()) for node in nodes]
            return all(shares) and sorted(shard for share in shares for shard in share) == list(range(SHARDS))

        wait_until(is_split, timeout_s=60, what=f"shares, not {self.own}")

    def begin(self) -> None:
        self._raiser.start()

    def _raise(self) -> None:
        while not self._stop.wait(0.01):
            camera = CAMERAS[len(self.raised) % len(CAMERAS)]
            topic = CAMERA_ESCALATION.at(self.site, camera=camera, origin="gpu.detector")
            self.raised.append(
                self.sender.publish_event(topic, lambda event_id, camera=camera: escalation(event_id, camera=camera))  # type: ignore[misc]
            )

    def wait_raised(self, more: int) -> None:
        until = len(self.raised) + more
        wait_until(lambda: len(self.raised) >= until, timeout_s=60, what="alarms")

    def finish(self) -> list[Record]:
        """No more alarms; everything that was raised has its receipt. What lies in Kafka then."""
        self._stop.set()
        self._raiser.join(30)
        wait_until(lambda: not self.sender.statistics().outbox_rows, timeout_s=90, what="every receipt")
        return self.kafka.consume(self.topic, at_least=len(self.raised), timeout_s=60)

    def audit(self) -> dict[str, Any]:
        """What `vigil audit --kafka` finds."""
        command = self.command("one", "audit", "--json")
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=ROOT)
        assert done.stdout, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def close(self) -> None:
        self._stop.set()
        for process in self.processes.values():
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
            process.kill()
            process.wait(20)
        for bus in (self.sender, self.watcher):
            with suppress(VigilError):
                bus.close(0)


@pytest.fixture
def bridges(request: pytest.FixtureRequest, tmp_path: Path, mosquitto: Mosquitto, kafka: Kafka) -> Iterator[Bridges]:
    made = Bridges(tmp_path, mosquitto, kafka, request.param)
    for node in ("one", "two"):
        made.start(node)
    made.wait_split("one", "two")
    made.begin()
    made.wait_raised(50)
    yield made
    made.close()


def ids_of(records: list[Record]) -> list[str]:
    return [(record.headers["ce_id"] or b"").decode() for record in records]


@pytest.mark.parametrize("bridges", ["at-least-once"], indirect=True)
def test_the_share_of_a_bridge_that_dies_is_anothers_and_nothing_is_missing(bridges: Bridges) -> None:
    bridges.processes["two"].kill()
    bridges.own.pop("two.bridge")
    bridges.wait_split("one")
    bridges.wait_raised(50)
    assert set(ids_of(bridges.finish())) == set(bridges.raised)
    (stream,) = bridges.audit()["streams"]
    assert stream["missing"] == 0


@pytest.mark.parametrize("bridges", ["at-least-once", "exactly-once"], indirect=True)
def test_a_bridge_that_freezes_does_no_harm_when_it_wakes_up(bridges: Bridges, request: pytest.FixtureRequest) -> None:
    frozen = bridges.processes["two"]
    frozen.send_signal(signal.SIGSTOP)
    bridges.own.pop("two.bridge")
    bridges.wait_split("one")
    bridges.wait_raised(50)
    frozen.send_signal(signal.SIGCONT)
    bridges.wait_split("one", "two")
    bridges.wait_raised(50)
    found = ids_of(bridges.finish())
    assert set(found) == set(bridges.raised)
    if "exactly-once" in request.node.name:
        assert len(found) == len(bridges.raised)


def test_eight_cameras_are_of_every_shard() -> None:
    assert {shard_of(camera, SHARDS) for camera in CAMERAS} == set(range(SHARDS))
