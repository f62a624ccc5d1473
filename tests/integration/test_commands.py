"""Commands out of a real Kafka to a real camera node, and their answers back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from broker import Bus, Delivery, listen
from broker.messages import CameraDocument, CameraState, Command, CommandValue, NodeStatus
from broker.topics import CAMERA_SET, CAMERA_STATE, NODE_COMMAND, NODE_STATUS, REGISTRY_CAMERA
from config.settings import BusSettings, Settings
from tests.support.kafka import Kafka, Record
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]


class Site:
    """A broker, a camera node, and topics of its own in Kafka."""

    def __init__(self, folder: Path, mosquitto: Mosquitto, kafka: Kafka) -> None:
        self.folder, self.mosquitto, self.kafka = folder, mosquitto, kafka
        name = uuid.uuid4().hex[:8]
        self.commands, self.replies, self.cameras = f"commands-{name}", f"replies-{name}", f"cameras-{name}"
        kafka.create_topic(self.cameras, config={"cleanup.policy": "compact"})
        settings = {
            "site": f"home-{name}",
            "node": "node-1",
            "cameras": {"street": {"source": "synthetic:street?fps=2"}},
            "bridge": {
                "kafka": {
                    "bootstrap": kafka.bootstrap,
                    "commands": {
                        "topic": self.commands,
                        "replies_topic": self.replies,
                        "cameras_topic": self.cameras,
                        "allow": [{"commands": ["mode", "ping", "status", "refresh"], "nodes": ["*"]}],
                    },
                }
            },
        }
        self.name = f"home-{name}"
        self.file = folder / "site.yaml"
        self.file.write_text(json.dumps(settings))  # YAML is JSON too
        self.heard: list[Delivery] = []
        self.bus = self._listen()

    def _listen(self) -> Bus:
        settings = Settings(site=self.name, node="node-2", bus=BusSettings(url=self.mosquitto.url))
        bus = listen(settings, "test")
        for spec in (CAMERA_STATE, CAMERA_SET, NODE_COMMAND, NODE_STATUS, REGISTRY_CAMERA):
            bus.subscribe(spec, self.heard.append)
        bus.start()
        assert bus.wait_connected(30)
        return bus

    @contextmanager
    def run(self, role: str) -> Iterator[subprocess.Popen[bytes]]:
        """`vigil ROLE` as a user runs it, until it is on the bus."""
        command = [sys.executable, "-m", "console", "--config", str(self.file), "--bus", self.mosquitto.url]
        command += ["--state", str(self.folder / "state"), role]
        births = self.births(role)
        with (self.folder / f"{role}.log").open("ab") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_until(lambda: self.births(role) > births or process.poll() is not None, timeout_s=60, what=role)
            assert process.poll() is None, (self.folder / f"{role}.log").read_text()
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait(20)

    def births(self, role: str) -> int:
        said = [delivery.content for delivery in list(self.heard)]
        return sum(isinstance(one, NodeStatus) and one.role == role and one.state == "online" for one in said)

    def state(self) -> CameraState | None:
        said = [delivery.content for delivery in list(self.heard) if isinstance(delivery.content, CameraState)]
        return said[-1] if said else None

    def orders(self) -> list[str]:
        """Correlation ids of what went out on the bus."""
        said = [delivery.content for delivery in list(self.heard)]
        return [one.correlation_id for one in said if isinstance(one, Command | CommandValue)]

    def document(self) -> CameraDocument | None:
        said = [delivery.content for delivery in list(self.heard) if delivery.topic.spec is REGISTRY_CAMERA]
        return said[-1] if said and isinstance(said[-1], CameraDocument) else None

    def ask(self, command: Mapping[str, Any] | bytes, **headers: str) -> None:
        value = command if isinstance(command, bytes) else json.dumps(command).encode()
        self.kafka.produce(self.commands, value, key=b"k1", headers={name: v.encode() for name, v in headers.items()})

    def answers(self, count: int) -> list[Record]:
        return self.kafka.consume(self.replies, at_least=count, timeout_s=60)

    def answer(self, count: int) -> dict[str, Any]:
        """The last of so many answers."""
        return _content(self.answers(count)[-1])


def _content(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(record.payload or b"")
    return found


@pytest.fixture
def site(tmp_path: Path, mosquitto: Mosquitto, kafka: Kafka) -> Iterator[Site]:
    with ExitStack() as stack:
        made = Site(tmp_path, mosquitto, kafka)
        stack.callback(made.bus.close, 0)
        yield made


def wait_mode(site: Site, mode: str) -> None:
    def is_so() -> bool:
        state = site.state()
        return state is not None and state.mode == mode

    wait_until(is_so, timeout_s=60, what=f"mode {mode}")


def test_a_command_in_kafka_changes_the_camera_and_is_answered_each_time_that_it_comes(site: Site) -> None:
    with site.run("edge"), site.run("commands"):
        command = {"id": "c1", "camera": "street", "property": "mode", "value": "eco"}
        site.ask(command, traceparent="00-11111111111111111111111111111111-2222222222222222-01")
        (record,) = site.answers(1)
        answer = _content(record)
        assert (answer["id"], answer["ok"], answer["by"]) == ("c1", True, "node-1.edge")
        assert answer["result"]["mode"] == "eco"
        assert record.key == b"k1"
        assert record.headers["correlation_id"] == b"c1"
        assert (record.headers["traceparent"] or b"").startswith(b"00-1111")
        wait_mode(site, "eco")
        site.ask(command)
        site.ask({"id": "c2", "node": "node-1", "name": "status"})
        site.ask({"id": "c3", "node": "node-1", "role": "commands", "name": "refresh"})
        for asked, _ in _REFUSED:
            site.ask(asked)
        answers = [_content(one) for one in site.answers(4 + len(_REFUSED))]
    assert [one for one in answers if one["id"] == "c1" and one["ok"]] == [answer, answer]
    assert site.orders().count("c1") == 1
    by_id = {one["id"]: one for one in answers}
    status = json.loads(by_id["c2"]["result"]["status"])
    assert (status["role"], status["state"]) == ("edge", "online")
    assert by_id["c3"]["by"] == "node-1.commands"
    for _, reason in _REFUSED:
        assert [one for one in answers if not one["ok"] and reason in one["reason"]], reason


_REFUSED: list[tuple[Mapping[str, Any] | bytes, str]] = [
    (b"{", "not JSON"),
    ({"id": "r1", "camera": "street", "property": "privacy", "value": "off"}, "cameras: [street], commands: [privacy]"),
    ({"id": "r2", "camera": "steet", "property": "mode", "value": "eco"}, "did you mean street?"),
    ({"id": "r3", "camera": "street", "property": "mode", "value": "fast"}, "write monitor, zoom, eco"),
    (
        {"id": "r4", "camera": "street", "property": "mode", "value": "off", "expires_at": "2026-01-01T00:00:00Z"},
        "expired",
    ),
    ({"id": "c1", "camera": "street", "property": "mode", "value": "off"}, "this id was another command's"),
]


def test_a_command_that_was_under_way_at_a_kill_is_answered_after_the_restart(site: Site) -> None:
    with site.run("edge") as edge:
        with site.run("commands") as commands:
            edge.send_signal(signal.SIGSTOP)
            site.ask({"id": "k1", "camera": "street", "property": "mode", "value": "eco"})
            wait_until(lambda: "k1" in site.orders(), timeout_s=60, what="the order")
            commands.kill()
            commands.wait(20)
        edge.send_signal(signal.SIGCONT)
        wait_mode(site, "eco")
        with site.run("commands"):
            assert site.answer(1)["ok"]
            assert set(site.orders()) == {"k1"}


def test_documents_of_cameras_become_the_registry_and_go_with_their_tombstone(site: Site) -> None:
    document = {"camera": "yard", "source": "synthetic:street?fps=2", "revision": 3, "settings": {"motion_fps": 2}}

    def has(revision: int | None) -> Callable[[], bool]:
        def check() -> bool:
            found = site.document()
            return (found.revision if found is not None else None) == revision

        return check

    site.kafka.produce(site.cameras, json.dumps(document).encode(), key=b"yard")
    site.kafka.produce(
        site.cameras, b'{"camera": "door", "source": "synthetic:street", "settings": {"mode": 1}}', key=b"door"
    )
    with site.run("commands"):
        wait_until(has(3), timeout_s=60, what="the document")
        refusal = site.answer(1)
        assert refusal["id"] == f"{site.cameras}/0/1"
        assert "cameras.door.mode" in refusal["reason"]
        site.kafka.produce(site.cameras, None, key=b"yard")
        wait_until(has(None), timeout_s=60, what="the document's end")
