"""Discovery from the first camera to the last, over a broker: published, kept up to date, carried over, taken back."""

from __future__ import annotations

import contextlib
import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from click.testing import CliRunner

from bridge.homeassistant.announced import Announced
from bridge.homeassistant.cli import homeassistant
from bridge.homeassistant.memory import known_path
from bridge.homeassistant.role import Discovery, check_prefix
from broker import Bus, Delivery
from broker.acl import AccessList, node_rights, person_rights
from broker.memory import MemoryBroker
from broker.messages import CameraModel, NodeStatus
from broker.topics import (
    CAMERA_MODEL,
    CAMERA_STATE,
    HOMEASSISTANT_DEVICE,
    HOMEASSISTANT_ENTITY,
    HOMEASSISTANT_STATUS,
    NODE_STATUS,
    Topic,
)
from config import ConfigError
from config.settings import Settings
from tests.support.messages import AT, camera_state
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import wait_until

PREFIX = "homeassistant"
DEVICE = f"{PREFIX}/device/vigil_home_camera_yard/config"
MIGRATE = b'{"migrate_discovery":true}'
ZONE = {"points": [[0, 0], [1, 0], [1, 1]]}


class Mesh:
    """A broker in memory, a node on it, and an onlooker who notes everything below Home Assistant's prefix."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = MemoryBroker()
        self.told: list[tuple[str, bytes]] = []
        self.kept: dict[str, bytes] = {}
        self.models: list[CameraModel | None] = []
        self._lock = threading.Lock()
        self.node = Bus(site="home", origin="porch.edge", transports=self.broker.transports("node"))
        self._onlooker = Bus(site="home", origin="desk.test", transports=self.broker.transports("onlooker"))

    def __enter__(self) -> Self:
        self._onlooker.subscribe_filter(f"{PREFIX}/#", self._note)
        self._onlooker.subscribe(CAMERA_MODEL, self._note_model)
        for bus in (self.node, self._onlooker):
            bus.start()
            assert bus.wait_connected(30)
        return self

    def __exit__(self, *_exc: object) -> None:
        self.node.close(0)
        self._onlooker.close(0)

    def _note(self, delivery: Delivery) -> None:
        topic = str(delivery.topic)
        if not topic.startswith(PREFIX):
            return
        with self._lock:
            self.told.append((topic, delivery.payload))
            self.kept[topic] = delivery.payload
            if not delivery.payload:
                del self.kept[topic]

    def _note_model(self, delivery: Delivery) -> None:
        self.models.append(delivery.content if isinstance(delivery.content, CameraModel) else None)

    def since(self, mark: int) -> list[tuple[str, bytes]]:
        with self._lock:
            return self.told[mark:]

    def camera(self, name: str = "yard", **changes: object) -> None:
        self.node.publish(CAMERA_STATE.at("home", camera=name), camera_state(name, node="porch", **changes))

    def status(self) -> None:
        status = NodeStatus(node="porch", role="edge", state="online", at=AT, started_at=AT)
        self.node.publish(NODE_STATUS.at("home", node="porch", role="edge"), status)

    def take_back(self, topic: Topic) -> None:
        self.node.publish(topic, b"")

    def born(self) -> None:
        self.node.publish(HOMEASSISTANT_STATUS.at("home", prefix=PREFIX), "online")

    def components(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kept[DEVICE])["components"]
        return found

    @contextlib.contextmanager
    def discovery(self, folder: str = "state", **changes: Any) -> Iterator[Discovery]:  # noqa: ANN401
        """One life of the role."""
        own = {"rediscover_within_s": 0.1, **changes.pop("homeassistant", {})}
        given = {"site": "home", "node": "hub", "state_dir": self.folder / folder, "homeassistant": own, **changes}
        bus = Bus(site="home", origin="hub.homeassistant", transports=self.broker.transports("homeassistant"))
        settings = Settings.model_validate(given)
        discovery = Discovery(bus, settings, "homeassistant", rng=random.Random(1), settle_s=0.2)
        discovery.start()
        bus.start()
        try:
            yield discovery
        finally:
            discovery.close()
            bus.close(0)


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with Mesh(tmp_path) as mesh:
        yield mesh


def test_a_camera_and_its_node_are_published_and_a_restart_changes_nothing(mesh: Mesh) -> None:
    mesh.camera()
    mesh.status()
    with mesh.discovery():
        wait_until(lambda: len(mesh.kept) == 2)
        wait_until(lambda: mesh.models[-1:] and mesh.models[-1])
    before = dict(mesh.kept)
    mark = len(mesh.told)
    with mesh.discovery():
        wait_until(lambda: len(mesh.since(mark)) == 2)
    assert mesh.kept == before
    assert dict(mesh.since(mark)) == before


@pytest.mark.parametrize("form", ["device", "entity"])
def test_what_a_camera_has_no_more_is_taken_back(mesh: Mesh, form: str) -> None:
    own = {"discovery": form}
    mesh.camera()
    with mesh.discovery(homeassistant=own, cameras={"yard": {"zones": {"bed": ZONE}}}):
        wait_until(lambda: mesh.kept)
    topic = f"{PREFIX}/sensor/vigil_home_camera_yard/count_person_bed/config"
    assert topic in mesh.kept if form == "entity" else "count_person_bed" in mesh.components()
    mark = len(mesh.told)
    with mesh.discovery(homeassistant=own, cameras={"yard": {}}):
        wait_until(lambda: any(payload for _, payload in mesh.since(mark)))
        if form == "entity":
            wait_until(lambda: topic not in mesh.kept)
            assert f"{PREFIX}/sensor/vigil_home_camera_yard/count_person/config" in mesh.kept
        else:
            wait_until(lambda: "count_person_bed" not in mesh.components())
            first = json.loads(mesh.since(mark)[0][1])["components"]
            assert first["count_person_bed"] == {"platform": "sensor"}


@pytest.mark.parametrize("before", ["device", "entity"])
def test_from_one_form_to_the_other_every_entity_is_carried_over(mesh: Mesh, before: str) -> None:
    mesh.camera()
    with mesh.discovery(homeassistant={"discovery": before}) as discovery:
        wait_until(lambda: mesh.kept)
        wait_until(lambda: discovery.figures().counts["entities"] == 19)
    old = set(mesh.kept)
    mark = len(mesh.told)
    with mesh.discovery(homeassistant={"discovery": "entity" if before == "device" else "device"}):
        wait_until(lambda: not old & mesh.kept.keys() and len(mesh.kept) == (19 if before == "device" else 1))
    said = mesh.since(mark)
    new = set(mesh.kept)
    kinds = ["m" if payload == MIGRATE else "-" if not payload else "+" for _, payload in said]
    assert kinds == ["m"] * len(old) + ["-"] * len(old) + ["+"] * len(new)
    assert {topic for topic, payload in said if payload == MIGRATE} == old


def test_home_assistant_starts_and_is_told_everything_again(mesh: Mesh) -> None:
    mesh.camera()
    mesh.status()
    with mesh.discovery() as discovery:
        wait_until(lambda: len(mesh.kept) == 2 and mesh.models)
        before, models, mark = dict(mesh.kept), len(mesh.models), len(mesh.told)
        mesh.born()
        wait_until(lambda: len(mesh.since(mark)) == 3 and len(mesh.models) > models)
        assert {topic: payload for topic, payload in mesh.since(mark) if topic in before} == before
        assert discovery.figures().counts["births"] == 1


def test_a_camera_and_a_node_that_are_gone_are_taken_back(mesh: Mesh) -> None:
    mesh.camera()
    mesh.camera("door")
    mesh.status()
    with mesh.discovery():
        wait_until(lambda: len(mesh.kept) == 3)
        mesh.take_back(CAMERA_STATE.at("home", camera="yard"))
        mesh.take_back(NODE_STATUS.at("home", node="porch", role="edge"))
        wait_until(lambda: list(mesh.kept) == [DEVICE.replace("yard", "door")])
        wait_until(lambda: None in mesh.models)


@pytest.mark.parametrize("lost", ["nothing", "disk", "broker"])
def test_what_goes_while_nobody_looks_leaves_no_ghost_and_what_is_offline_stays(mesh: Mesh, lost: str) -> None:
    mesh.camera()
    mesh.camera("door", state="online")
    with mesh.discovery():
        wait_until(lambda: len(mesh.kept) == 2)
    mesh.camera("door", state="offline")
    mesh.take_back(CAMERA_STATE.at("home", camera="yard"))
    folder = "other" if lost == "disk" else "state"
    if lost == "broker":  # it tells nothing of anybody: that is no word that they are gone
        mesh.node.disown(CAMERA_STATE.at("home", camera="yard"))
        mesh.node.disown(CAMERA_STATE.at("home", camera="door"))
        mesh.broker.stop()
        mesh.broker.forget()
        mesh.broker.start()
        mesh.kept.clear()
    mark = len(mesh.told)
    with mesh.discovery(folder):
        wait_until(
            lambda: len([topic for topic, payload in mesh.since(mark) if payload]) >= (2 if lost == "broker" else 1)
        )
        wait_until(lambda: len(mesh.kept) == (2 if lost == "broker" else 1))
    assert DEVICE.replace("yard", "door") in mesh.kept


def test_another_prefix_leaves_nothing_below_the_old_one(mesh: Mesh) -> None:
    mesh.camera()
    with mesh.discovery(homeassistant={"prefix": f"{PREFIX}/test"}):
        wait_until(lambda: mesh.kept)
    with mesh.discovery():
        wait_until(lambda: list(mesh.kept) == [DEVICE])


def test_what_others_publish_there_is_left_alone(mesh: Mesh) -> None:
    stranger = HOMEASSISTANT_DEVICE.at("home", prefix=PREFIX, id="vigil_home2_camera_yard")
    lamp = HOMEASSISTANT_ENTITY.at("home", prefix=PREFIX, component="light", id="lamp", key="light")
    for topic in (stranger, lamp):
        mesh.node.publish(topic, b'{"name": "x"}')
    mesh.camera()
    with mesh.discovery():
        wait_until(lambda: len(mesh.kept) == 3)
        mesh.take_back(CAMERA_STATE.at("home", camera="yard"))
        wait_until(lambda: len(mesh.kept) == 2)
    assert set(mesh.kept) == {str(stranger), str(lamp)}


def test_a_file_that_cannot_be_read_is_made_anew(mesh: Mesh) -> None:
    path = known_path(mesh.folder / "state", "home", "hub.homeassistant")
    path.parent.mkdir(parents=True)
    path.write_text("{")
    mesh.camera()
    with mesh.discovery():
        wait_until(lambda: mesh.kept)
        wait_until(lambda: path.read_text().startswith('{\n "v": 1'))


def test_show_and_clear(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as mosquitto:
        own = {"site": "home", "node": "hub", "state_dir": tmp_path, "bus": {"url": mosquitto.url}}
        settings = Settings.model_validate(own)
        bus = Bus(site="home", origin="hub.test", transports=_transports(settings))
        bus.start()
        assert bus.wait_connected(30)
        for name in ("yard", "door"):
            topic = HOMEASSISTANT_DEVICE.at("home", prefix=PREFIX, id=f"vigil_home_camera_{name}")
            bus.publish(topic, json.dumps({"components": {name: {}}}).encode())
        run = CliRunner()
        with Announced(settings, "homeassistant") as announced:
            wait_until(lambda: len(announced.devices()) == 2)
        bus.close(0)
        shown = run.invoke(homeassistant, ["show", "yard"], obj=lambda _given: settings)
        assert json.loads(shown.output)["components"] == {"yard": {}}
        assert "door" in run.invoke(homeassistant, ["show"], obj=lambda _given: settings).output
        missing = run.invoke(homeassistant, ["show", "shed"], obj=lambda _given: settings)
        assert "there are door, yard" in missing.output
        assert run.invoke(homeassistant, ["clear"], obj=lambda _given: settings).output == "2 topics taken back\n"
        assert run.invoke(homeassistant, ["show"], obj=lambda _given: settings).output == ""


def _transports(settings: Settings) -> Any:  # noqa: ANN401
    from broker._paho import paho_transports

    return paho_transports(settings.bus, client_id="publisher", persistent=False)


def test_the_rights_extend_to_its_own_prefix_and_home_assistant_may_command(tmp_path: Path) -> None:
    rights = AccessList(node_rights("home", "hub", ["homeassistant"]))
    assert rights.allows("hub.homeassistant", "write", DEVICE)
    assert rights.allows("hub.homeassistant", "read", f"{PREFIX}/status")
    assert not rights.allows("hub.homeassistant", "write", f"{PREFIX}/status")
    assert not rights.allows("hub.homeassistant", "write", DEVICE.replace(PREFIX, "other"))
    assert not rights.allows("hub.homeassistant", "read", "vigil/v1/home/camera/yard/frame")
    assert not rights.allows("hub.homeassistant", "write", "vigil/v1/home/camera/yard/set/mode")
    person = AccessList(person_rights("home", "alice", "dashboard"))
    assert person.allows("alice", "read", DEVICE)
    assert person.allows("alice", "write", f"{PREFIX}/status")
    assert person.allows("alice", "write", "vigil/v1/home/camera/yard/set/drill")
    assert not person.allows("alice", "write", DEVICE)
    secure = {"bus": {"url": "mqtts://x:1"}, "homeassistant": {"prefix": "other"}, "state_dir": tmp_path}
    with pytest.raises(ConfigError, match=r"homeassistant\.prefix"):
        check_prefix(Settings.model_validate(secure))
