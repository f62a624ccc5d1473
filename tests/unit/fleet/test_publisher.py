"""The registry on a bus in memory, by a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from broker import Bus, Delivery
from broker.memory import MemoryBroker
from broker.messages import CameraDocument, NodeDocument, RegistryIndex
from broker.topics import REGISTRY_CAMERA, REGISTRY_INDEX, REGISTRY_NODE
from config.logins import logins_file, read_logins
from config.registry import Login
from config.settings import FleetSettings, Settings
from fleet.registry.folder import Registry, RegistryFolder
from fleet.registry.publisher import Publisher
from tests.support.clocks import HeldClock
from tests.support.messages import AT
from tests.support.waiting import wait_until

NOW_MS = int(AT.timestamp() * 1000)


class World:
    """A folder, a broker, a publisher whose looks the test makes, and somebody who listens."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings = Settings(site="home", state_dir=path / "state", fleet=FleetSettings(registry=path / "registry"))
        self.folder = RegistryFolder(self.settings.fleet.registry)
        self.clock = HeldClock(AT)
        self.broker = MemoryBroker()
        self.said: list[Registry] = []
        self.retained: set[str] = set()
        self.begin()

    def begin(self) -> None:
        """A listener and a publisher that start anew."""
        self.cameras: dict[str, CameraDocument] = {}
        self.nodes: dict[str, NodeDocument] = {}
        self.index: RegistryIndex | None = None
        self.other = self._bus("hub", "commands")
        for spec in (REGISTRY_CAMERA, REGISTRY_NODE, REGISTRY_INDEX):
            self.other.subscribe(spec, self._on_delivery)
        self.bus = self._bus("hub", "fleet")
        self.publisher = Publisher(self.bus, self.settings, self.clock)
        self.publisher.on_change(self.said.append)
        self.publisher.listen()
        for bus in (self.other, self.bus):
            bus.start()
            assert bus.wait_connected(10)
        # By this clock no time passes in which it might come.
        wait_until(lambda: self.publisher.facts.cameras.keys() >= self.retained, what="what is retained")
        self.publisher.look()
        self.clock.advance(2.1)

    def end(self) -> None:
        self.retained = set(self.cameras)
        for bus in (self.other, self.bus):
            bus.close(0)

    def _bus(self, node: str, role: str) -> Bus:
        return Bus(site="home", origin=f"{node}.{role}", transports=self.broker.transports(f"{node}.{role}"))

    def _on_delivery(self, delivery: Delivery) -> None:
        match delivery.content:
            case CameraDocument() as document:
                self.cameras[delivery.topic.camera] = document
            case NodeDocument() as document:
                self.nodes[delivery.topic.params["node"]] = document
            case RegistryIndex() as index:
                self.index = index
            case None if delivery.topic.spec is REGISTRY_CAMERA:
                self.cameras.pop(delivery.topic.camera, None)
            case None:
                self.nodes.pop(delivery.topic.params["node"], None)

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Look until something is so."""

        def looked() -> object:
            self.publisher.look()
            return condition()

        wait_until(looked, what=what)

    def look_again(self) -> None:
        """Look at what has changed; at the next look it has stayed so."""
        self.publisher.look()
        self.clock.advance(1.0)

    def done(self) -> tuple[int, int]:
        """Documents that were published and cleared."""
        counts = self.publisher.figures().counts
        return int(counts["documents_published"]), int(counts["documents_cleared"])

    def settle(self) -> None:
        self.until(lambda: self.publisher.settled, "a bus that says what the folder says")
        wait_until(
            lambda: (self.cameras, self.nodes) == (dict(self.publisher.facts.cameras), dict(self.publisher.facts.nodes))
        )

    def publish(self, camera: str, revision: int, *, fps: float = 4.0, source: str = "rtsp://a/kafka") -> None:
        document = CameraDocument(camera=camera, source=source, revision=revision, settings={"idle_fps": fps})
        topic = REGISTRY_CAMERA.at("home", camera=camera)
        self.other.publish(topic, document)
        self.other.disown(topic)
        wait_until(lambda: self.publisher.facts.cameras.get(camera) == document)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    world.folder.change_camera("yard", {"source": "rtsp://a/b", "node": "porch", "idle_fps": 2})
    world.folder.change_node("porch", {"roles": {"edge": 1}})
    yield world
    world.end()


def test_the_bus_says_what_the_folder_says(world: World) -> None:
    world.settle()
    assert (world.cameras["yard"].source, world.cameras["yard"].settings) == ("rtsp://a/b", {"idle_fps": 2.0})
    assert world.nodes["porch"].roles == {"edge": 1}
    assert world.index is not None
    assert (world.index.cameras, world.index.nodes) == (("yard",), ("porch",))
    assert world.done() == (2, 0)
    world.publisher.look()
    assert world.done() == (2, 0)


def test_a_change_is_published_with_a_higher_revision_and_nothing_else_is(world: World) -> None:
    world.settle()
    before = world.cameras["yard"], world.nodes["porch"]
    world.folder.change_camera("yard", {"idle_fps": 3})
    world.settle()
    assert world.cameras["yard"].settings == {"idle_fps": 3.0}
    assert world.cameras["yard"].revision > before[0].revision >= NOW_MS
    assert world.nodes["porch"] == before[1]


def test_what_has_no_file_any_more_goes(world: World) -> None:
    world.settle()
    world.folder.remove_camera("yard")
    world.folder.remove_node("porch")
    world.look_again()
    world.settle()
    assert (world.cameras, world.nodes) == ({}, {})
    assert world.index is not None
    assert (world.index.cameras, world.index.nodes) == ((), ())


def test_a_file_that_is_replaced_by_way_of_none_or_an_empty_one_takes_nothing_away(world: World) -> None:
    world.folder.change_node("porch", {"roles": {"detector": 2}})
    world.settle()
    before = world.cameras["yard"], world.nodes["porch"]
    yard, porch = world.folder.camera_file("yard"), world.folder.node_file("porch")
    texts = yard.read_text(), porch.read_text()
    yard.unlink()
    porch.write_text("")
    world.publisher.look()
    yard.write_text(texts[0])
    porch.write_text(texts[1])
    world.look_again()
    world.settle()
    assert (world.cameras["yard"], world.nodes["porch"]) == before
    assert world.done() == (2, 0)
    porch.write_text("")
    world.look_again()
    world.settle()
    assert world.nodes["porch"].roles == {"edge": 1}


def test_what_was_removed_while_nobody_looked_goes_too(world: World) -> None:
    world.settle()
    world.end()
    world.folder.remove_camera("yard")
    world.begin()
    world.settle()
    assert world.cameras == {}
    assert world.nodes.keys() == {"porch"}


def test_the_last_good_word_of_a_broken_file_holds(world: World) -> None:
    world.settle()
    before, file = world.cameras["yard"], world.folder.camera_file("yard")
    file.write_text("source: rtsp://a/other\nidle_fps: 0\n")
    world.folder.change_camera("door", {"source": "rtsp://a/d"})
    world.until(lambda: "door" in world.cameras, "the other camera")
    assert world.cameras["yard"] == before
    assert world.publisher.registry.cameras["yard"].entry.idle_fps == 2
    assert [trouble.name for trouble in world.publisher.registry.troubles] == ["yard"]
    assert world.index is not None
    assert world.index.cameras == ("door", "yard")
    file.write_text("source: rtsp://a/other\n")
    world.settle()
    assert world.cameras["yard"].source == "rtsp://a/other"


def test_a_file_that_was_broken_from_the_start_takes_nothing_away(world: World) -> None:
    world.settle()
    before = world.cameras["yard"]
    world.end()
    world.folder.camera_file("yard").write_text("idle_fps: 0\n")
    world.folder.change_camera("door", {"source": "rtsp://a/d"})
    world.begin()
    world.until(lambda: "door" in world.cameras, "the other camera")
    assert world.cameras["yard"] == before


def test_a_broker_that_lost_everything_gets_everything_with_higher_revisions(world: World) -> None:
    world.settle()
    before = world.cameras["yard"]
    world.end()
    world.broker, world.retained = MemoryBroker(), set()
    world.begin()
    world.settle()
    assert world.cameras["yard"].revision > before.revision
    assert world.cameras["yard"].settings == before.settings
    assert world.nodes.keys() == {"porch"}


def test_a_clock_that_went_back_makes_no_lower_revision(world: World) -> None:
    world.settle()
    world.publish("yard", NOW_MS * 2)
    world.until(lambda: world.folder.camera("yard").entry.idle_fps == 4, "the other's word in the file")
    world.folder.change_camera("yard", {"idle_fps": 5})
    world.settle()
    assert world.cameras["yard"].revision == NOW_MS * 2 + 1


def test_a_document_of_somebody_else_becomes_an_edit(world: World) -> None:
    world.settle()
    file = world.folder.camera_file("yard")
    file.write_text("# by hand\nsource: rtsp://a/b\nnode: porch\nidle_fps: 2  # slow\narea: Garden\n")
    world.settle()
    document = CameraDocument(
        camera="yard", source="rtsp://a/b", node="door", area="Garden", revision=NOW_MS * 2, settings={"idle_fps": 3.0}
    )
    world.other.publish(REGISTRY_CAMERA.at("home", camera="yard"), document)
    world.until(lambda: world.folder.camera("yard").entry.node == "door", "the other's word in the file")
    assert file.read_text() == "# by hand\nsource: rtsp://a/b\nnode: door\nidle_fps: 3.0 # slow\narea: Garden\n"
    world.settle()
    assert world.cameras["yard"] == document


def test_a_new_camera_of_somebody_else_gets_a_file(world: World) -> None:
    world.settle()
    world.publish("kafka", 7)
    world.until(lambda: "kafka" in world.folder.read().cameras, "its file")
    world.settle()
    assert world.cameras["kafka"].revision == 7
    world.folder.change_camera("kafka", {"area": "Hall"})
    world.settle()
    assert world.cameras["kafka"].revision > 7


def test_a_camera_of_somebody_else_from_before_the_first_start_gets_a_file(world: World) -> None:
    world.publish("kafka", 7)
    world.settle()
    assert world.cameras.keys() == {"kafka", "yard"}
    assert world.folder.camera("kafka").entry.idle_fps == 4


def test_both_changes_are_kept_where_two_were_made_while_nobody_looked(world: World) -> None:
    world.settle()
    world.bus.close(0)
    document = CameraDocument(
        camera="yard", source="rtsp://a/b", node="porch", area="Garden", revision=NOW_MS * 2, settings={"idle_fps": 2.0}
    )
    topic = REGISTRY_CAMERA.at("home", camera="yard")
    world.other.publish(topic, document)
    wait_until(lambda: world.cameras["yard"] == document)
    world.other.close(0)
    world.retained = {"yard"}
    world.folder.change_camera("yard", {"motion_fps": 7})
    world.begin()
    world.settle()
    entry = world.folder.camera("yard").entry
    assert (entry.area, entry.motion_fps, entry.node) == ("Garden", 7.0, "porch")
    assert world.cameras["yard"].area == "Garden"
    assert world.cameras["yard"].settings["motion_fps"] == 7


def test_what_somebody_else_takes_away_loses_its_file(world: World) -> None:
    world.settle()
    world.other.publish(REGISTRY_CAMERA.at("home", camera="yard"), b"")
    world.until(lambda: not world.folder.camera_file("yard").exists(), "its file to go")
    world.settle()
    assert world.cameras == {}


def test_another_registry_on_the_same_bus_takes_no_file_away(world: World) -> None:
    world.folder.set_login("yard", Login(username="admin", password=SecretStr("s3cret")))
    world.settle()
    world.publisher.look()
    # As a command elsewhere does, whose folder has another camera.
    index = RegistryIndex(revision=NOW_MS * 2, at=AT, cameras=("stray",))
    world.other.publish(REGISTRY_INDEX.at("home"), index)
    world.other.publish(REGISTRY_CAMERA.at("home", camera="yard"), b"")
    world.until(lambda: world.done()[0] == 3, "the camera again")
    world.settle()
    assert world.cameras.keys() == {"yard"}
    assert world.folder.camera("yard").entry.source == "rtsp://a/b"
    assert world.folder.logins().keys() == {"yard"}
    assert world.index is not None
    assert world.index.cameras == ("yard",)


def test_a_camera_that_goes_and_comes_back_at_once_keeps_its_file(world: World) -> None:
    world.settle()
    world.folder.remove_camera("yard")
    world.look_again()
    world.publisher.look()
    world.folder.change_camera("yard", {"source": "rtsp://a/b"})
    world.settle()
    assert world.folder.camera("yard").entry.source == "rtsp://a/b"
    assert "yard" in world.cameras


@pytest.mark.parametrize("revision", [1, NOW_MS * 2])
def test_what_cannot_stand_in_the_folder_is_published_over(world: World, revision: int) -> None:
    world.settle()
    world.publish("yard", revision, fps=-1.0)
    world.settle()
    assert world.cameras["yard"].settings == {"idle_fps": 2.0}
    assert world.cameras["yard"].revision > max(revision, NOW_MS)
    assert world.folder.camera("yard").entry.idle_fps == 2


def test_an_older_document_of_somebody_else_is_published_over(world: World) -> None:
    world.settle()
    world.publish("yard", 1)
    world.settle()
    assert world.cameras["yard"].settings == {"idle_fps": 2.0}


def test_a_folder_that_is_away_takes_nothing_away(world: World) -> None:
    world.settle()
    world.folder.path.rename(world.path / "away")
    world.publisher.look()
    world.end()
    world.begin()
    world.publisher.look()
    assert world.done() == (0, 0)
    wait_until(lambda: world.cameras.keys() == {"yard"})
    (world.path / "away").rename(world.folder.path)
    world.folder.change_camera("yard", {"idle_fps": 3})
    world.settle()
    assert world.cameras["yard"].settings == {"idle_fps": 3.0}


def test_a_lost_state_folder_makes_no_difference(world: World) -> None:
    world.settle()
    world.end()
    (world.settings.state_dir / "fleet" / "home.json").unlink()
    world.folder.change_camera("yard", {"idle_fps": 3})
    world.folder.change_camera("door", {"source": "rtsp://a/d"})
    world.folder.remove_node("porch")
    world.begin()
    world.settle()
    assert world.cameras.keys() == {"door", "yard"}
    assert world.cameras["yard"].settings == {"idle_fps": 3.0}
    assert world.nodes == {}


def test_who_asks_for_changes_is_told_each_once(world: World) -> None:
    world.settle()
    assert [sorted(registry.cameras) for registry in world.said] == [[], ["yard"]]
    world.folder.change_camera("door", {"source": "rtsp://a/d"})
    world.settle()
    world.publisher.look()
    assert [sorted(registry.cameras) for registry in world.said] == [[], ["yard"], ["door", "yard"]]


def test_logins_stay_on_the_machine(world: World) -> None:
    file = logins_file(world.settings)
    world.folder.set_login("yard", Login(username="admin", password=SecretStr("s3cret")))
    world.settle()
    assert read_logins(file)["yard"].password.get_secret_value() == "s3cret"
    assert (file.stat().st_mode & 0o777) == 0o600
    assert "s3cret" not in str(world.cameras)
    world.folder.set_login("yard", None)
    world.publisher.look()
    assert read_logins(file) == {}


def test_a_camera_that_is_too_large_for_the_bus_keeps_nobody_else_from_it(world: World) -> None:
    world.folder.change_camera("big", {"source": "rtsp://a/b", "labels": ["x" * 1000] * 70})
    world.until(lambda: "yard" in world.cameras, "the other camera")
    assert "big" not in world.cameras
