"""The generated ACL file in a real Mosquitto, against what the same rights say in Python."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from broker.acl import Access, AccessList, Right, mosquitto_acl, node_rights, person_rights
from broker.topics import CONTRACT, OUTSIDE
from tests.support.mosquitto import Mosquitto, mosquitto_program

SITE = "home"
RIGHTS: tuple[Right, ...] = (
    *node_rights(SITE, "porch", ["edge", "doctor"], ["yard"]),
    *node_rights(SITE, "gate", ["edge", "detector.2", "bridge", "fleet", "console", "up"], ["door"]),
    *node_rights(SITE, "hub", ["drill", "homeassistant"], ["yard"]),
    *person_rights(SITE, "alice", "dashboard"),
    *person_rights(SITE, "bob", "viewer"),
)
USERS = sorted({right.username for right in RIGHTS})
INSIDE = (
    {"camera": "yard", "origin": "porch.edge", "node": "porch", "role": "edge", "property": "mode", "name": "m"},
    {"camera": "door", "origin": "gate.detector.2", "node": "gate", "role": "up", "property": "mode", "name": "n"},
    {"camera": "yard", "origin": "hub.drill", "node": "hub", "role": "drill", "property": "clip", "name": "m"},
)
ELSEWHERE = (
    {"prefix": "homeassistant", "id": "vigil_home_camera_yard", "component": "switch", "key": "privacy"},
    {"prefix": "elsewhere", "id": "lamp", "component": "light", "key": "lamp"},
)
TOPICS = sorted(
    str(spec.at(SITE, **{name: choice[name] for name in spec.placeholders}))
    for specs, choices in ((CONTRACT, INSIDE), (OUTSIDE, ELSEWHERE))
    for spec in specs
    for choice in choices
)
LAST_WORD = "that/is/all"
NOT_AUTHORIZED = 0x87
WAIT_S = 10.0


class User:
    """A client that may do what its name may."""

    def __init__(self, server: Mosquitto, name: str) -> None:
        self.received: queue.Queue[str] = queue.Queue()
        self._answers: queue.Queue[int] = queue.Queue()
        self._granted = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=paho.MQTTv5)
        self._client.username_pw_set(name)
        self._client.on_publish = self._on_publish
        self._client.on_subscribe = lambda *_arguments: self._granted.set()
        self._client.on_message = lambda _client, _given, message: self.received.put(message.topic)
        self._client.connect(server.host, server.port)
        self._client.loop_start()

    def _on_publish(
        self, _client: paho.Client, _given: object, _number: int, code: ReasonCode, _properties: Properties | None
    ) -> None:
        self._answers.put(int(code.value))

    def publishes(self, topic: str) -> bool:
        """Whether the broker takes a message of this user."""
        self._client.publish(topic, b"x", qos=1)
        return self._answers.get(timeout=WAIT_S) != NOT_AUTHORIZED

    def subscribe(self) -> None:
        """Ask for everything, and wait for the answer."""
        self._client.subscribe("#", qos=1)
        assert self._granted.wait(WAIT_S)

    def received_before(self, last: str) -> list[str]:
        """The topics of what came before this one."""
        return list(iter(lambda: self.received.get(timeout=WAIT_S), last))

    def close(self) -> None:
        """Leave."""
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Mosquitto]:
    """A Mosquitto with the rights of the site, a user `root` that may do anything, and a last word for everybody."""
    if mosquitto_program() is None:
        pytest.skip("no mosquitto: sudo apt-get install mosquitto")
    acl = tmp_path / "acl"
    last_word = (Right(name, "read", LAST_WORD) for name in USERS)
    acl.write_text(mosquitto_acl((*RIGHTS, *last_word)) + "\nuser root\ntopic readwrite #\n")
    with Mosquitto(tmp_path, settings=[f"acl_file {acl}"]) as server:
        yield server


def expected(username: str, access: Access) -> list[str]:
    rights = AccessList(RIGHTS)
    return [topic for topic in TOPICS if rights.allows(username, access, topic)]


def test_mosquitto_takes_what_the_rights_allow_and_nothing_else(guarded: Mosquitto) -> None:
    for name in USERS:
        user = User(guarded, name)
        assert [topic for topic in TOPICS if user.publishes(topic)] == expected(name, "write"), name
        user.close()


def test_mosquitto_hands_out_what_the_rights_allow_and_nothing_else(guarded: Mosquitto) -> None:
    root = User(guarded, "root")
    users = {name: User(guarded, name) for name in USERS}
    for user in (root, *users.values()):
        user.subscribe()
    for topic in TOPICS:
        assert root.publishes(topic)
    assert root.publishes(LAST_WORD)
    for name, user in users.items():
        assert user.received_before(LAST_WORD) == expected(name, "read"), name
    for user in (root, *users.values()):
        user.close()
