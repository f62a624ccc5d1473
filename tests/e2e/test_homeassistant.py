"""A real Home Assistant finds the mesh by itself, sees what its cameras see, commands them, forgets what is gone."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import subprocess
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from broker import Bus, Delivery, decode_frame, listen
from broker.messages import CameraState, Escalation, NodeStatus, encode_json
from broker.topics import (
    CAMERA_ESCALATION,
    CAMERA_EVIDENCE,
    CAMERA_FRAME,
    CAMERA_SET,
    CAMERA_SNAPSHOT,
    CAMERA_STATE,
    HOMEASSISTANT_DEVICE,
    HOMEASSISTANT_ENTITY,
    HOMEASSISTANT_STATUS,
    NODE_STATUS,
    TopicSpec,
)
from config.settings import BusSettings, Settings
from tests.e2e.vigil_process import Vigil, run_vigil
from tests.support.homeassistant import HomeAssistantServer, Installation
from tests.support.messages import AT
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import wait_until as wait_briefly

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the first time, Home Assistant is installed

SITE_FILE = """
node: porch
edge: {{detector: true}}
detector: {{rules: {{presence: {{for_s: 0, cooldown_s: 2, min_score: 0.3}}}}}}
homeassistant: {{discovery: {discovery}, rediscover_within_s: 0.2}}
cameras:
  street:
    source: "synthetic:street?seed=3&fps=5"
    motion_fps: 3
    zones: {{drive: {{points: [[0, 0], [1, 0], [1, 1], [0, 1]]}}}}
{more}
"""
YARD = '  yard: {source: "synthetic:street?seed=5&fps=1"}'
# Home Assistant with the examples, for this camera, and with a lamp and a telephone of its own.
EXAMPLES = Path(__file__).parents[2] / "deploy" / "homeassistant"
CONFIGURATION = """
notify:
persistent_notification:
input_select:
  sun: {options: [below_horizon]}
lovelace: {mode: yaml}
light:
  - {platform: template, lights: {street: {turn_on: [], turn_off: []}}}
automation: !include automations.yaml
automation blueprint:
  - alias: From the blueprint
    use_blueprint:
      path: vigil/escalation.yaml
      input:
        escalation: event.vigil_street_escalation
        image: image.vigil_street_last_escalation
        notify:
          - service: persistent_notification.create
            data: {notification_id: blueprint, title: "{{ title }}", message: "{{ message }} {{ picture }}"}
"""
KNOWN_ONLY_LATER = {"button", "image", "event", "update"}
"""Their state is what happened last, and nothing has."""
OF_OURS = re.compile(
    r"\[homeassistant(\.components\.(mqtt|lovelace|automation|blueprint)|\.(helpers|util|config|exceptions)|\])"
)
"""What complains of what we say; others complain of a slow machine."""
HARMLESS = (
    "homeassistant.components.mqtt.client",  # that a test killed the broker
    "The client is not currently connected",
    "No device components to cleanup",  # the way back from the form `device`, once a device
    "Maximum number of runs exceeded",  # this street raises one every two seconds
    "Invalid state message '' from",  # a process was taken back, and 2024.3 knows of no time that is not there
)


wait_until = functools.partial(wait_briefly, timeout_s=120)


class Onlooker:
    """Somebody who notes what is on the bus."""

    def __init__(self, bus: Bus) -> None:
        self._lock = threading.Lock()
        self._seen: dict[TopicSpec, list[Delivery]] = defaultdict(list)
        for spec in (CAMERA_ESCALATION, CAMERA_EVIDENCE, CAMERA_FRAME, CAMERA_SET, CAMERA_SNAPSHOT, CAMERA_STATE):
            bus.subscribe(spec, self._note)

    def _note(self, delivery: Delivery) -> None:
        with self._lock:
            self._seen[delivery.topic.spec].append(delivery)

    def seen(self, spec: TopicSpec, camera: str = "street") -> list[Delivery]:
        """Everything of one line and camera, so far."""
        with self._lock:
            return [delivery for delivery in self._seen[spec] if delivery.topic.camera == camera]

    def payloads(self, spec: TopicSpec) -> set[bytes]:
        return {delivery.payload for delivery in self.seen(spec)}

    def camera(self) -> CameraState:
        """How the camera does."""
        content = self.seen(CAMERA_STATE)[-1].content
        assert isinstance(content, CameraState)
        return content

    def commands(self, name: str) -> list[bytes]:
        """What the camera was told."""
        return [told.payload for told in self.seen(CAMERA_SET) if told.topic.params["property"] == name]


@dataclass
class Home:
    """A home with a Home Assistant and a mesh of one node."""

    folder: Path
    mosquitto: Mosquitto
    ha: HomeAssistantServer
    knows_devices: bool
    running: dict[str, Vigil] = field(default_factory=dict)

    def write_site_file(self, *, discovery: str = "", more: str = "") -> None:
        form = discovery or ("device" if self.knows_devices else "entity")
        (self.folder / "vigil.yaml").write_text(SITE_FILE.format(discovery=form, more=more))

    @property
    def options(self) -> tuple[str, ...]:
        """Of every command."""
        return (
            *("--config", str(self.folder / "vigil.yaml"), "--bus", self.mosquitto.url),
            *("--state", str(self.folder / "state")),
        )

    def begin(self, role: str) -> None:
        """Start a process of the mesh."""
        folder = self.folder / role
        folder.mkdir(exist_ok=True)
        self.running[role] = Vigil(*self.options, role, folder=folder).__enter__()

    def kill(self, role: str) -> None:
        self.running[role].process.kill()
        self.running[role].process.wait()

    def change_form(self, form: str, *, topics: int) -> None:
        """Change the form of discovery, and wait until the broker keeps as many topics of it."""
        self.kill("homeassistant")
        self.write_site_file(discovery=form)
        self.begin("homeassistant")
        wait_until(lambda: len(self.discovery_topics()) == topics, what=f"discovery in the form {form}")

    def publish(self, topic: str, payload: str, *options: str) -> None:
        """As anybody does."""
        command = ["mosquitto_pub", "-p", str(self.mosquitto.port), "-q", "1", "-t", topic, "-m", payload, *options]
        subprocess.run(command, check=True, timeout=20)

    def discovery_topics(self) -> list[str]:
        """What the broker keeps of discovery."""
        topics = [spec.topic_filter(prefix="homeassistant") for spec in (HOMEASSISTANT_DEVICE, HOMEASSISTANT_ENTITY)]
        asked = [option for topic in topics for option in ("-t", topic)]
        options = ["-p", str(self.mosquitto.port), "-q", "1", "--retained-only", "-W", "1", "-F", "%t"]
        told = subprocess.run(
            ["mosquitto_sub", *options, *asked], capture_output=True, text=True, check=False, timeout=20
        )
        return sorted(told.stdout.split())

    def states(self, camera: str = "street") -> dict[str, str]:
        """States of a camera's entities, by entity id."""
        ours = {entity.entity_id for entity in self.ha.entities().values() if entity.device == camera}
        return {entity_id: told.state for entity_id, told in self.ha.states().items() if entity_id in ours}


def install_examples(folder: Path) -> None:
    """As their first lines say."""
    for example, place in (
        ("automations.yaml", "automations.yaml"),
        ("dashboard.yaml", "ui-lovelace.yaml"),
        ("blueprints/escalation.yaml", "blueprints/automation/vigil/escalation.yaml"),
    ):
        text = (EXAMPLES / example).read_text().replace("yard", "street").replace("Yard", "Street")
        text = text.replace("notify.mobile_app_telephone", "notify.persistent_notification")
        text = text.replace("sun.sun", "input_select.sun")
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(text)


@pytest.fixture(scope="module")
def home(homeassistant: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("home")
    install_examples(folder / "ha")
    with contextlib.ExitStack() as stack:
        mosquitto = stack.enter_context(Mosquitto(folder))
        server = HomeAssistantServer(folder / "ha", homeassistant, broker_port=mosquitto.port, settings=CONFIGURATION)
        home = Home(folder, mosquitto, server, homeassistant.knows_devices)
        home.write_site_file()
        for role in ("edge", "homeassistant"):
            stack.callback(home.kill, role)
            home.begin(role)
        stack.enter_context(server)
        yield home


@pytest.fixture(scope="module")
def onlooker(home: Home) -> Iterator[Onlooker]:
    bus = listen(Settings(bus=BusSettings(url=home.mosquitto.url)), "console")
    onlooker = Onlooker(bus)
    bus.start()
    yield onlooker
    bus.close(drain_s=0)


@contextlib.contextmanager
def escalations(ha: HomeAssistantServer) -> Iterator[Iterator[dict[str, Any]]]:
    """Attributes of the event entity, with each escalation from here on."""
    with ha.events("state_changed") as changes:
        states = (change["data"]["new_state"] for change in changes)
        yield (
            state["attributes"]
            for state in states
            if state and state["entity_id"] == "event.vigil_street_escalation" and state["attributes"].get("id")
        )


@pytest.fixture
def ha(home: Home) -> Iterator[HomeAssistantServer]:
    """The Home Assistant, once it knows the camera; after the test it has nothing of weight to complain of."""
    home.ha.wait_for_state("select.vigil_street_mode", "monitor")
    known = home.ha.complaints()
    yield home.ha
    fresh = [line for line in home.ha.complaints() if line not in known and OF_OURS.search(line)]
    assert [line for line in fresh if not any(reason in line for reason in HARMLESS)] == []


def test_a_camera_and_its_node_appear_by_themselves(ha: HomeAssistantServer) -> None:
    wait_until(lambda: "Node porch" in ha.devices(), what="the node")
    devices, entities = ha.devices(), ha.entities()
    assert devices["street"]["identifiers"] == [["mqtt", "vigil_home_camera_street"]]
    assert (devices["street"]["manufacturer"], devices["street"]["model"]) == ("Vigil", "Camera")
    assert devices["Node porch"]["sw_version"]
    found = {entity.entity_id for entity in entities.values() if entity.device == "street"}
    assert found >= {
        "camera.vigil_street",
        "image.vigil_street_last_escalation",
        "image.vigil_street_snapshot",
        "binary_sensor.vigil_street_motion",
        "binary_sensor.vigil_street_person_occupancy",
        "sensor.vigil_street_person_count",
        "event.vigil_street_escalation",
        "select.vigil_street_mode",
        "switch.vigil_street_detection",
        "switch.vigil_street_recording",
        "switch.vigil_street_privacy",
        "button.vigil_street_take_snapshot",
        "button.vigil_street_drill",
        "update.vigil_street_model",
    }
    on_node = {entity.entity_id for entity in entities.values() if entity.device == "Node porch"}
    assert on_node >= {
        "binary_sensor.vigil_node_porch_edge_status",
        "sensor.vigil_node_porch_edge_load",
        "sensor.vigil_node_porch_edge_queue",
        "sensor.vigil_node_porch_disk_free",
    }
    assert entities["vigil_home_camera_street_privacy"].entity_id == "switch.vigil_street_privacy"
    assert {entity.device for entity in entities.values()} == {"street", "Node porch"}
    ha.wait_for_state("binary_sensor.vigil_node_porch_edge_status", "on")


def test_motion_and_people_come_and_go(ha: HomeAssistantServer) -> None:
    ha.wait_for_state("binary_sensor.vigil_street_motion", "on")
    ha.wait_for_state("binary_sensor.vigil_street_person_occupancy", "on")
    assert int(ha.wait_for_state("sensor.vigil_street_person_count", *"123456").state)
    ha.wait_for_state("binary_sensor.vigil_street_motion", "off")
    ha.wait_for_state("binary_sensor.vigil_street_person_occupancy", "off")
    ha.wait_for_state("sensor.vigil_street_person_count", "0")


def test_the_camera_shows_the_frames_of_the_bus(ha: HomeAssistantServer, onlooker: Onlooker) -> None:
    wait_until(lambda: ha.picture("camera.vigil_street") in onlooker.payloads(CAMERA_FRAME), what="a frame")
    assert decode_frame(ha.picture("camera.vigil_street")).meta.camera == "street"


def test_an_escalation_is_an_event_with_its_picture(ha: HomeAssistantServer, onlooker: Onlooker) -> None:
    with escalations(ha) as told:
        event = next(told)
    content = next(seen.content for seen in onlooker.seen(CAMERA_ESCALATION) if event["id"].encode() in seen.payload)
    assert isinstance(content, Escalation)
    assert (event["event_type"], event["rule"], event["drill"]) == (content.severity, "presence", False)
    assert event["summary"] == content.summary
    assert "evidence" not in event
    wait_until(
        lambda: ha.picture("image.vigil_street_last_escalation") in onlooker.payloads(CAMERA_EVIDENCE),
        what="its picture",
    )


def test_the_examples_work(ha: HomeAssistantServer) -> None:
    named = set(re.findall(r"\b[a-z_]+\.vigil_\w+", json.dumps(ha.ask("lovelace/config"))))
    assert len(named) > 20
    assert named - set(ha.states()) <= {"sensor.vigil_node_porch_temperature"}  # where the machine has none

    def notifications() -> dict[str, dict[str, Any]]:
        return {told["title"]: told for told in ha.ask("persistent_notification/get")["result"]}

    wait_until(lambda: {"Street", "Warning: presence"} <= set(notifications()), what="both notifications")
    assert notifications()["Street"]["message"]
    assert "/api/image_proxy/image.vigil_street_last_escalation" in notifications()["Warning: presence"]["message"]
    ha.wait_for_state("light.street", "on")


def test_a_switch_is_a_command_on_the_bus(ha: HomeAssistantServer, onlooker: Onlooker) -> None:
    ha.call_service("switch.turn_on", entity_id="switch.vigil_street_privacy")
    wait_until(lambda: b"ON" in onlooker.commands("privacy"), what="the command")
    ha.wait_for_state("switch.vigil_street_privacy", "on")
    wait_until(lambda: onlooker.camera().privacy, what="a camera that obeys")
    ha.call_service("switch.turn_off", entity_id="switch.vigil_street_privacy")
    wait_until(lambda: b"OFF" in onlooker.commands("privacy"), what="the command")
    ha.wait_for_state("switch.vigil_street_privacy", "off")
    wait_until(lambda: not onlooker.camera().privacy, what="a camera that obeys")
    ha.call_service("switch.turn_off", entity_id="switch.vigil_street_detection")
    ha.wait_for_state("switch.vigil_street_detection", "off")
    wait_until(lambda: not onlooker.camera().detection, what="a camera that is not scored")
    ha.call_service("switch.turn_on", entity_id="switch.vigil_street_detection")
    ha.wait_for_state("switch.vigil_street_detection", "on")


def test_the_mode_is_chosen_and_the_schedule_followed_again(ha: HomeAssistantServer, onlooker: Onlooker) -> None:
    ha.call_service("select.select_option", entity_id="select.vigil_street_mode", option="off")
    ha.wait_for_state("select.vigil_street_mode", "off")
    wait_until(lambda: onlooker.camera().mode == "off", what="a camera that obeys")
    ha.wait_for_state("camera.vigil_street", "unavailable")
    ha.wait_for_state("switch.vigil_street_privacy", "off")
    ha.call_service("button.press", entity_id="button.vigil_street_follow_schedule")
    ha.wait_for_state("select.vigil_street_mode", "monitor")
    ha.wait_for_state("camera.vigil_street", "idle")


def test_buttons_take_a_snapshot_and_raise_a_drill(ha: HomeAssistantServer, onlooker: Onlooker) -> None:
    ha.call_service("button.press", entity_id="button.vigil_street_take_snapshot")
    wait_until(
        lambda: ha.picture("image.vigil_street_snapshot") in onlooker.payloads(CAMERA_SNAPSHOT), what="the snapshot"
    )
    ha.call_service("switch.turn_on", entity_id="switch.vigil_street_privacy")
    wait_until(lambda: not ha.picture("image.vigil_street_snapshot"), what="that the snapshot is forgotten")
    ha.call_service("switch.turn_off", entity_id="switch.vigil_street_privacy")
    ha.wait_for_state("switch.vigil_street_privacy", "off")
    with escalations(ha) as told:
        ha.call_service("button.press", entity_id="button.vigil_street_drill")
        drill = next(event for event in told if event["drill"])
    assert drill["rule"] == "drill"


def test_a_node_that_dies_is_unavailable_until_it_is_back(home: Home, ha: HomeAssistantServer) -> None:
    before = ha.entities()
    home.kill("edge")
    for entity_id in ("camera.vigil_street", "binary_sensor.vigil_street_motion", "switch.vigil_street_privacy"):
        ha.wait_for_state(entity_id, "unavailable")
    ha.wait_for_state("binary_sensor.vigil_node_porch_edge_status", "off")
    home.begin("edge")
    ha.wait_for_state("camera.vigil_street", "idle")
    ha.wait_for_state("switch.vigil_street_privacy", "off")
    ha.wait_for_state("binary_sensor.vigil_node_porch_edge_status", "on")
    assert ha.entities() == before


def test_after_its_restart_it_knows_everything_again(home: Home, ha: HomeAssistantServer) -> None:
    before = ha.entities()
    ha.call_service("automation.turn_off", entity_id="all")  # it would wait a minute for the lamp to be switched off
    ha.stop()
    ha.start()
    ha.wait_for_state("camera.vigil_street", "idle")
    assert ha.entities() == before

    def unknown() -> dict[str, str]:
        return {
            entity_id: state
            for entity_id, state in home.states().items()
            if state in ("unknown", "unavailable") and entity_id.partition(".")[0] not in KNOWN_ONLY_LATER
        }

    try:
        wait_until(lambda: not unknown(), what="all states")
    except AssertionError:
        raise AssertionError(unknown()) from None
    assert ha.picture("image.vigil_street_last_escalation")


def test_when_it_starts_it_is_told_everything_again(home: Home, ha: HomeAssistantServer) -> None:
    before = ha.entities()
    for topic in home.discovery_topics():
        home.publish(topic, "", "--retain")  # as somebody does who tidies the broker
    wait_until(lambda: not ha.entities(), what="an empty registry")
    home.publish(str(HOMEASSISTANT_STATUS.at("home", prefix="homeassistant")), "online")
    wait_until(lambda: ha.entities() == before, what="everything")
    ha.wait_for_state("camera.vigil_street", "idle")


def test_a_broker_that_forgot_everything_is_told_everything_again(home: Home, ha: HomeAssistantServer) -> None:
    before = ha.entities()
    home.mosquitto.kill()
    ha.wait_for_state("switch.vigil_street_privacy", "unavailable")
    home.mosquitto.start()
    ha.wait_for_state("switch.vigil_street_privacy", "off")
    ha.wait_for_state("camera.vigil_street", "idle")
    wait_until(lambda: len(home.discovery_topics()) == (2 if home.knows_devices else len(before)), what="discovery")
    assert ha.entities() == before


def test_a_camera_that_is_removed_leaves_nothing_behind(home: Home, ha: HomeAssistantServer) -> None:
    before = home.discovery_topics()
    home.write_site_file(more=YARD)
    ha.wait_for_state("select.vigil_yard_mode", "monitor")
    assert "yard" in ha.devices()
    home.write_site_file()
    wait_until(lambda: "yard" not in ha.devices(), what="a registry without the camera")
    assert not [entity_id for entity_id in ha.states() if "yard" in entity_id]
    assert home.discovery_topics() == before


def test_a_node_that_is_removed_leaves_nothing_behind(home: Home, ha: HomeAssistantServer) -> None:
    before = home.discovery_topics()
    status = NodeStatus(node="attic", role="edge", state="online", at=AT, started_at=AT)
    topic = str(NODE_STATUS.at("home", node="attic", role="edge"))
    home.publish(topic, encode_json(status).decode(), "--retain")
    ha.wait_for_state("binary_sensor.vigil_node_attic_edge_status", "on")
    home.publish(topic, "", "--retain")
    wait_until(lambda: "Node attic" not in ha.devices(), what="a registry without the node")
    assert home.discovery_topics() == before


def test_one_form_of_discovery_becomes_the_other(home: Home, ha: HomeAssistantServer) -> None:
    if not home.knows_devices:
        assert len(home.discovery_topics()) == len(ha.entities())
        return
    named = "switch.do_not_look"  # what a person has changed stays
    ha.ask("config/entity_registry/update", entity_id="switch.vigil_street_privacy", new_entity_id=named)
    before = ha.entities()
    home.change_form("entity", topics=len(before))
    ha.wait_for_state(named, "off")
    assert ha.entities() == before
    home.change_form("device", topics=2)
    ha.wait_for_state(named, "off")
    assert ha.entities() == before
    ha.ask("config/entity_registry/update", entity_id=named, new_entity_id="switch.vigil_street_privacy")


def test_everything_is_taken_back_on_demand(home: Home, ha: HomeAssistantServer) -> None:
    before = ha.entities()
    home.kill("homeassistant")
    status, said, _ = run_vigil(*home.options, "homeassistant", "clear")
    assert (status, "topics taken back" in said) == (0, True)
    wait_until(lambda: not ha.entities() and not ha.devices(), what="an empty registry")
    assert not home.discovery_topics()
    home.begin("homeassistant")
    wait_until(lambda: ha.entities() == before, what="everything")
