"""Which cameras and nodes there are, by what the bus tells: deliveries come in, nothing waits."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from bridge.homeassistant import Census
from bridge.homeassistant.facts import CameraFacts, NodeFacts
from broker import Delivery, Topic, TopicSpec
from broker.messages import (
    CameraCheck,
    CameraDocument,
    CameraHealth,
    CameraOwner,
    Message,
    ModelFile,
    ModelManifest,
    ModelRef,
    NodeDocument,
    NodeHealth,
    NodeStatus,
    OpenEvents,
    RegistryIndex,
    WorkerStatus,
    encode_json,
)
from broker.messages.scores import OpenTrack
from broker.topics import (
    CAMERA_CHECK,
    CAMERA_OWNER,
    CAMERA_STATE,
    CAMERA_TRACK_OPEN,
    MODEL,
    NODE_HEALTH,
    NODE_STATUS,
    NODE_WORKER,
    REGISTRY_CAMERA,
    REGISTRY_INDEX,
    REGISTRY_NODE,
)
from tests.support.messages import AT, camera_state

NOW = datetime(2026, 1, 1, 12, 0, 1, tzinfo=UTC)
OLD, NEW = "a" * 64, "b" * 64


class Site:
    """A census that hears of a site."""

    def __init__(self, **given: Any) -> None:  # noqa: ANN401
        known: dict[str, Any] = {"labels": ("person",), "zones": {}, "cameras": {}, "nodes": {}, **given}
        self.census = Census("home", **known)

    def _fold(self, topic: Topic, content: Message | None) -> None:
        payload = b"" if content is None else encode_json(content)
        self.census.fold(Delivery(topic, content, payload, retained=True, received_at=NOW, _acknowledge=lambda: None))

    def tell(self, spec: TopicSpec, content: Message | None, name: str = "yard") -> None:
        self._fold(spec.at("home", **{spec.placeholders[0]: name}), content)

    def state(self, state: str = "online", camera: str = "yard", **changes: object) -> None:
        self.tell(CAMERA_STATE, camera_state(camera, **{"state": state, "node": "porch", **changes}), camera)

    def status(self, role: str = "edge", state: Literal["online", "offline"] = "online") -> None:
        topic = NODE_STATUS.at("home", node="porch", role=role)
        versions = {"vigil": "9"}
        self._fold(topic, NodeStatus(node="porch", role=role, state=state, at=AT, started_at=AT, versions=versions))

    def health(self, *cameras: str, role: str = "edge", temperature_c: float | None = None) -> None:
        message = NodeHealth(
            node="porch", role=role, at=AT, uptime_s=1, cpu_percent=1, memory_bytes=1, disk_free_bytes=1,
            cameras={camera: CameraHealth() for camera in cameras}, temperature_c=temperature_c,
        )  # fmt: skip
        self._fold(NODE_HEALTH.at("home", node="porch", role=role), message)

    def worker(self, **said: Any) -> None:  # noqa: ANN401
        status = WorkerStatus(worker="gpu.detector", state="online", at=AT, capacity_fps=9, **said)
        self._fold(NODE_WORKER.at("home", node="gpu", role="detector"), status)

    def owner(self, worker: str) -> None:
        self.tell(CAMERA_OWNER, CameraOwner(camera="yard", worker=worker, epoch=1, at=AT))

    def standing_in(self, *zones: str) -> None:
        track = OpenTrack(
            track_id="t", label="person", started_at=AT, seen_at=AT, score=1, box=(0, 0, 1, 1),
            zones=dict.fromkeys(zones, AT),
        )  # fmt: skip
        self.tell(CAMERA_TRACK_OPEN, OpenEvents(camera="yard", at=AT, ids=("t",), tracks=(track,)))

    def document(self, settings: Mapping[str, Any], **fields: Any) -> None:  # noqa: ANN401
        self.tell(REGISTRY_CAMERA, CameraDocument(camera="yard", source="x", settings=dict(settings), **fields))

    def index(self, *cameras: str, nodes: tuple[str, ...] = (), connection: int = 0) -> None:
        content = RegistryIndex(revision=1, at=AT, cameras=cameras, nodes=nodes)
        delivery = Delivery(
            REGISTRY_INDEX.at("home"), content, b"{}", retained=True, received_at=NOW, _acknowledge=lambda: None
        )
        self.census.fold(delivery, connection)

    def knows(self) -> bool:
        """Whether the camera `yard` is known."""
        return "yard" in self.census.cameras

    def yard(self) -> CameraFacts:
        """What is known of it."""
        return self.census.cameras["yard"]


def test_a_camera_is_known_when_its_node_has_it() -> None:
    site = Site()
    site.state("offline")
    assert not site.knows()  # what a broker keeps outlives a camera
    site.health("yard", role="edge.2")
    assert site.knows()
    assert (site.yard().node, site.yard().role, site.yard().labels) == ("porch", "edge.2", ("person",))
    for told in (lambda one: one.state(), lambda one: (one.document({}), one.state("offline"))):
        other = Site()
        told(other)
        assert other.knows()


def test_one_that_is_offline_stays_and_one_that_its_node_has_no_more_goes() -> None:
    site = Site()
    site.state()
    site.health("yard")
    for _ in range(9):
        site.health()
    assert site.knows()  # it is online: somebody has it
    site.state("offline")
    for _ in range(9):
        site.health("yard")
    assert site.knows()
    site.document({})
    for _ in range(9):
        site.health()
    assert site.knows()  # the site gives it to somebody
    site.tell(REGISTRY_CAMERA, None)
    site.health()
    site.health()
    site.health("yard")
    site.health()
    site.health()
    assert site.knows()
    site.health()
    assert not site.knows()
    assert site.census.devices() == {}


def test_one_whose_state_is_taken_back_goes_at_once() -> None:
    site = Site()
    site.state()
    site.tell(CAMERA_STATE, None)
    assert not site.knows()


def test_zones_come_from_the_site_else_the_settings_else_from_who_stands_in_them() -> None:
    site = Site()
    site.state()
    site.standing_in("bed")
    site.standing_in("gate")
    assert site.knows()
    assert site.yard().zones == ("bed", "gate")
    site.document({"zones": {"drive": {"points": []}, "street": {"points": [], "kind": "exclude"}}})
    assert site.yard().zones == ("drive",)
    site.standing_in("bed")
    assert site.yard().zones == ("drive",)
    settled = Site(zones={"yard": ("lawn",)})
    settled.state()
    settled.standing_in("bed")
    assert settled.knows()
    assert settled.yard().zones == ("lawn",)


def test_labels_that_its_worker_is_not_asked_for_are_not_counted() -> None:
    site = Site(labels=("person", "car"))
    site.state(labels=("car",))
    assert site.knows()
    assert site.yard().labels == ("car",)


def test_while_nobody_scores_it_its_last_worker_is_the_one_that_is_away() -> None:
    site = Site()
    site.owner("gpu.detector")  # before its state, as a broker may send it
    site.state()
    site.owner("")
    assert site.knows()
    assert site.yard().worker == "gpu.detector"
    site.state(scored_by="node")
    assert site.yard().worker == ""


def test_a_node_has_the_processes_that_it_told_of_until_they_are_taken_back() -> None:
    site = Site()
    for role in ("console", "edge.2", "drill", "edge"):
        site.status(role, "offline")
    assert site.census.nodes["porch"] == NodeFacts(roles=("edge", "edge.2", "console"), version="9")
    site.health(temperature_c=40.0)
    site.health()
    assert site.census.nodes["porch"].has_temperature
    for role in ("console", "edge.2", "edge"):
        assert "vigil_home_node_porch" in site.census.devices()
        site._fold(NODE_STATUS.at("home", node="porch", role=role), None)
    assert site.census.devices() == {}


def test_what_the_broker_kept_of_them_is_kept() -> None:
    site = Site()
    site.state("offline")
    site.status()
    site.census.remember("vigil_home_camera_yard", ["camera", "count_person", "count_person_big__bed"])
    site.census.remember("vigil_home_node_porch", ["temperature", "disk"])
    site.census.remember("vigil_home_camera_gone", ["camera"])
    assert site.knows()
    assert site.yard().zones == ("big_bed",)
    assert site.census.nodes["porch"].has_temperature
    assert set(site.census.cameras) == {"yard"}


def test_what_was_known_and_is_not_told_any_more_can_be_forgotten() -> None:
    site = Site(
        cameras={"yard": CameraFacts(node="porch"), "door": CameraFacts(node="porch")}, nodes={"old": NodeFacts()}
    )
    site.state()
    assert site.census.unheard() == ["vigil_home_camera_door", "vigil_home_node_old"]
    site.census.forget(["vigil_home_camera_door"])
    assert (set(site.census.cameras), set(site.census.nodes)) == ({"yard"}, {"old"})


def test_the_model_that_scores_a_camera_and_the_one_that_is_wanted() -> None:
    site = Site()
    site.state()
    (said,) = site.census.models(NOW).values()
    assert (said.installed, said.wanted, said.worker) == ("", "", "")
    site.owner("gpu.detector")
    site.worker(model=ModelRef(name="nano", sha256=OLD), classes=("gpu",))
    said = site.census.models(NOW)["yard"]
    assert (said.installed, said.wanted) == ("nano (aaaaaaaa)", "nano (aaaaaaaa)")
    model, before = (ModelFile(name="nano", sha256=digest, size_bytes=1) for digest in (NEW, OLD))
    manifest = ModelManifest(name="default", version=2, at=AT, model=model, previous=before, canary="other.detector")
    site.tell(MODEL, manifest, "default")
    assert site.census.models(NOW)["yard"] == said  # only another one tries it
    site.tell(MODEL, ModelManifest(name="gpu", version=1, at=AT, model=model), "gpu")
    assert site.census.models(NOW)["yard"].wanted == "nano (bbbbbbbb)"
    site.worker(model=ModelRef(name="nano", sha256=OLD), classes=("gpu",), model_wanted=ModelRef(name="n", sha256=NEW))
    assert site.census.models(NOW)["yard"].changing
    site.worker(model=ModelRef(name="nano", sha256=OLD), classes=("gpu",), model_error="too large")
    assert site.census.models(NOW)["yard"].error == "too large"


def test_what_cannot_be_a_name_is_left_out() -> None:
    site = Site()
    site.state(camera="door", node="a/b")
    assert site.census.cameras == {}
    site.owner("no origin")
    site.state()
    site.standing_in("bed", "x' in track.zones %}")
    site.document({"labels": []})
    assert (site.yard().zones, site.yard().worker) == (("bed",), "")
    site.document({"zones": {"bad zone": {}, "gate": {}}})
    assert site.yard().zones == ("gate",)
    assert len(site.census.devices()) == 1


def test_names_that_anybody_may_invent_are_bounded() -> None:
    site = Site()
    for number in range(1_100):
        site.state(camera=f"c{number}")
    assert len(site.census.cameras) == 1_000


def test_people_see_the_names_and_areas_that_the_registry_gives() -> None:
    site = Site()
    site.state()
    site.status()
    site.document({}, name="Front yard", area="Garden")
    document = NodeDocument(node="porch", revision=1, name="Porch box", area="Porch")
    site.tell(REGISTRY_NODE, document, "porch")
    devices = site.census.devices()
    seen = {device.short: (device.name, device.area) for device in devices.values()}
    assert seen == {"yard": ("Front yard", "Garden"), "node porch": ("Porch box", "Porch")}
    assert devices.keys() == {"vigil_home_camera_yard", "vigil_home_node_porch"}, "ids are of the contract's names"
    site.tell(REGISTRY_NODE, None, "porch")
    site.tell(REGISTRY_CAMERA, None)
    seen = {device.short: (device.name, device.area) for device in site.census.devices().values()}
    assert seen == {"yard": ("yard", ""), "node porch": ("Node porch", "")}


def test_what_the_registry_took_back_meanwhile_has_no_name_any_more() -> None:
    site = Site()
    site.state()
    site.status()
    site.document({}, name="Front yard")
    site.tell(REGISTRY_NODE, NodeDocument(node="porch", revision=1, name="Porch box"), "porch")
    site.index()
    assert site.yard().name == "Front yard", "this connection has brought it"
    site.index(connection=1)
    assert (site.yard().name, site.census.nodes["porch"].name) == ("", "")


def test_a_camera_that_is_checked_has_a_sensor_for_it_until_it_is_not() -> None:
    site = Site()
    site.state()
    key = "check"
    assert key not in site.census.devices()["vigil_home_camera_yard"].entities
    site.tell(CAMERA_CHECK, CameraCheck(camera="yard", at=AT, ok=False, reason="schedule"))
    entity = site.census.devices()["vigil_home_camera_yard"].entities[key]
    assert (entity.component, entity.config["device_class"]) == ("binary_sensor", "problem")
    site.tell(CAMERA_CHECK, None)
    assert key not in site.census.devices()["vigil_home_camera_yard"].entities


def test_what_nobody_is_to_touch_is_gone_once_its_node_has_left_it() -> None:
    site = Site()
    site.state()
    site.health("yard")
    site.document({}, excluded=True)
    site.state("offline")
    for _ in range(3):
        site.health()
    assert not site.knows()
