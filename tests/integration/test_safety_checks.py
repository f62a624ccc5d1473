"""Safety checks and restarts of cameras over a real Mosquitto, as `vigil camera check` and `vigil schedule` show them.

The cameras' node is the test: it answers for a snapshot with whatever picture it is given.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from broker import Bus, Delivery, encode_frame, listen
from broker.messages import (
    CameraCheck,
    CommandValue,
    Escalation,
    FrameMeta,
    ModelManifest,
    NodeStatus,
    OpenEvents,
    Reply,
)
from broker.topics import (
    CAMERA_CHECK,
    CAMERA_ESCALATION,
    CAMERA_MOTION_OPEN,
    CAMERA_SET,
    CAMERA_SNAPSHOT,
    CAMERA_STATE,
    MODEL,
    NODE_REPLY,
    NODE_STATUS,
    RECEIPT,
)
from config import ManualClock
from config.registry import Login
from config.settings import BusSettings, FleetSettings, Settings
from console.cli import cli
from edge.synthetic.scenes import open_scene
from edge.uris import SyntheticUri
from fleet.registry.publisher import Publisher
from fleet.role import Part, run_fleet
from fleet.schedules import Scheduler
from fleet.schedules.workshop import notes_file
from tests.support.messages import camera_state, receipt
from tests.support.mosquitto import Mosquitto
from tests.support.troubles import TROUBLES, WELL, Grey
from tests.support.waiting import wait_until

SITE = """\
time_zone: UTC
schedules:
  pictures: {task: snapshot, cron: "0 4 * * *"}
  restarts: {task: reboot, every: 1d}
  all-well: {task: check, cron: "0 4 * * *"}
windows:
  models: [{start: "02:00", end: "03:00"}]
"""
CAMERA = "source: synthetic:street\ndevice: {onvif: http://127.0.0.1:9/onvif/device_service}\n"
DAY = datetime(2026, 6, 1, 12, tzinfo=UTC)
SCENE = open_scene(SyntheticUri(3, 10.0, 480, 272, "max"), 480, 272)


def picture(at_s: float) -> Grey:
    return np.asarray(Image.fromarray(SCENE.picture(at_s)).convert("L"))


class HeldTime(ManualClock):
    """Its time passes only when the test says so; whoever waits looks again soon."""

    def wait(self, stop: threading.Event, _timeout_s: float) -> bool:
        return stop.wait(0.02)


class Node:
    """A camera's node."""

    def __init__(self, settings: Settings) -> None:
        self.bus = listen(settings, "edge")
        self.shows: list[Grey] = [picture(0.0)]
        self.refuses = ""
        self.on_refused: Callable[[], None] = lambda: None
        self.taken = 0
        self.escalations: list[Escalation] = []
        self.manifests: list[ModelManifest] = []
        self.checks: list[CameraCheck] = []
        self.fleet_is_there = self.check_is_cleared = False
        self.bus.subscribe(CAMERA_SET, self._on_order)
        self.bus.subscribe(CAMERA_ESCALATION, self._on_message)
        self.bus.subscribe(MODEL, self._on_message)
        self.bus.subscribe(CAMERA_CHECK, self._on_message)
        self.bus.subscribe(NODE_STATUS, self._on_message, role="fleet")

    def start(self) -> None:
        self.bus.start()
        assert self.bus.wait_connected(10)
        self.bus.publish(CAMERA_STATE.at("home", camera="yard"), camera_state(node="porch"))

    def has_told(self, check: str) -> bool:
        return any(check in one.summary for one in self.escalations)

    def open(self, *ids: str) -> None:
        events = OpenEvents(camera="yard", at=DAY, ids=ids)
        self.bus.publish(CAMERA_MOTION_OPEN.at("home", camera="yard"), events)

    def _on_order(self, delivery: Delivery) -> None:
        order = delivery.content
        assert isinstance(order, CommandValue)
        if self.refuses:
            self.on_refused()
        else:
            self._publish(self.shows[self.taken % len(self.shows)])
        reply = Reply(correlation_id=order.correlation_id, ok=not self.refuses, reason=self.refuses)
        self.bus.publish(NODE_REPLY.at("home", node="porch", role="edge"), reply)

    def _publish(self, shown: Grey) -> None:
        made = io.BytesIO()
        Image.fromarray(shown).save(made, "JPEG", quality=80)
        self.taken += 1
        at, (height, width) = DAY + timedelta(seconds=self.taken), shown.shape
        meta = FrameMeta(camera="yard", node="porch", seq=self.taken, captured_at=at, width=width, height=height)
        self.bus.publish(CAMERA_SNAPSHOT.at("home", camera="yard"), encode_frame(made.getvalue(), meta))

    def _on_message(self, delivery: Delivery) -> None:
        if isinstance(delivery.content, Escalation):
            self.escalations.append(delivery.content)
            told = receipt(delivery.content.id, delivery.payload)
            self.bus.publish(RECEIPT.at("home", origin="desk.fleet"), told)
        if isinstance(delivery.content, NodeStatus):
            self.fleet_is_there = delivery.content.state == "online"
        if isinstance(delivery.content, CameraCheck):
            self.checks.append(delivery.content)
        self.check_is_cleared = delivery.topic.spec is CAMERA_CHECK and not delivery.payload
        if isinstance(delivery.content, ModelManifest):
            self.manifests.append(delivery.content)


class Fleet:
    """The fleet's process, as a thread, at a time that the test says."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.clock = HeldTime(DAY)
        self.rebooted: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=run_fleet, args=(settings, "fleet", self._stop, self._parts))

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(20)

    def _parts(self, bus: Bus) -> list[Part]:
        publisher = Publisher(bus, self.settings)
        self.scheduler = Scheduler(bus, self.settings, publisher, self.clock, reboot=self._reboot)
        return [publisher, self.scheduler]

    def _reboot(self, address: str, _login: Login | None) -> None:
        self.rebooted.append(address)

    def ask(self, *words: str) -> Result:
        settings = self.settings
        before = ["--bus", settings.bus.url, "--site", "home", "--node", "desk", "--state", str(settings.state_dir)]
        environment = {"VIGIL_FLEET__REGISTRY": str(settings.fleet.registry)}
        return CliRunner(env=environment).invoke(cli, [*before, *words])


@pytest.fixture
def settings(mosquitto: Mosquitto, tmp_path: Path) -> Settings:
    registry = tmp_path / "registry"
    (registry / "cameras").mkdir(parents=True)
    (registry / "site.yaml").write_text(SITE)
    (registry / "cameras" / "yard.yaml").write_text(CAMERA)
    return Settings(
        node="desk",
        state_dir=tmp_path / "state",
        bus=BusSettings(url=mosquitto.url),
        fleet=FleetSettings(registry=registry),
    )


@pytest.fixture
def node(settings: Settings) -> Iterator[Node]:
    node = Node(settings)
    node.start()
    yield node
    node.bus.close(0)


@pytest.fixture
def fleet(settings: Settings, node: Node) -> Iterator[Fleet]:
    fleet = Fleet(settings)
    fleet.start()
    wait_until(lambda: node.fleet_is_there and notes_file(settings).exists(), what="the fleet")
    yield fleet
    fleet.stop()


def listed(done: Result) -> list[dict[str, Any]]:
    """What a command prints as a list; the fleet's own log may come between."""
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("[{")]
    rows: list[dict[str, Any]] = json.loads(line)
    return rows


def checked(fleet: Fleet) -> tuple[int, list[str]]:
    """The exit status of `vigil camera check yard`, and what is not well."""
    done = fleet.ask("camera", "check", "yard", "--json")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    check = msgspec.json.decode(line, type=CameraCheck)
    return int(done.exit_code != 0), [finding.check for finding in check.findings if not finding.ok]


def test_a_camera_is_checked_against_its_reference_and_what_fails_is_escalated_once(node: Node, fleet: Fleet) -> None:
    rng = np.random.default_rng(1)
    node.shows = [picture(5.0), picture(9.0)]
    done = fleet.ask("camera", "check", "yard", "--take-reference")
    assert done.exit_code == 0, done.output
    assert checked(fleet) == (0, [])
    node.shows = [WELL["night"](picture(at_s), rng) for at_s in (5.0, 12.0)]
    assert checked(fleet) == (0, [])
    for name, check in (("hand before it", "covered"), ("turned 25 degrees", "turned"), ("lens cap", "black")):
        node.shows = [TROUBLES[name][1](picture(at_s), rng) for at_s in (5.0, 12.0)]
        assert checked(fleet) == (1, [check])
        wait_until(partial(node.has_told, check), what=check)
    node.shows = [picture(5.0)]
    assert checked(fleet) == (1, ["frozen"])
    wait_until(lambda: len(node.escalations) == 4, what="four escalations")
    assert checked(fleet) == (1, ["frozen"])
    node.shows = [TROUBLES["lens cap"][1](picture(5.0), rng)]
    assert "black" in checked(fleet)[1]  # told before, though something else failed in between
    assert len(node.escalations) == 4
    assert all(one.evidence and one.rule == "safety-check" and not one.drill for one in node.escalations)
    shown = Image.open(io.BytesIO(node.escalations[0].evidence[0].data))
    assert shown.size == (480, 272)


def test_no_picture_and_no_right_to_one_are_told_apart(node: Node, fleet: Fleet, settings: Settings) -> None:
    node.refuses = "the camera gives no pictures: no route to host"
    assert checked(fleet) == (1, ["fresh"])
    wait_until(lambda: node.escalations, what="the escalation")
    assert "no route to host" in node.escalations[0].summary
    wait_until(lambda: node.checks, what="the check on the bus")
    assert not node.checks[0].ok
    node.bus.publish(CAMERA_STATE.at("home", camera="yard"), camera_state(node="porch", privacy=True))
    wait_until(lambda: "private" in fleet.ask("camera", "check", "yard").output, what="the word that it is private")
    assert len(node.escalations) == 1
    assert "there is no camera 'nowhere'" in str(fleet.ask("camera", "check", "nowhere").exception)
    (settings.fleet.registry / "cameras" / "yard.yaml").unlink()
    wait_until(lambda: node.check_is_cleared, what="the end of the check of a camera that is no more")


def test_a_camera_is_restarted_when_nothing_moves_and_must_come_back(node: Node, fleet: Fleet) -> None:
    node.open("m-1")
    wait_until(lambda: "something is going on" in str(fleet.ask("schedule", "run", "restarts").exception))
    assert not fleet.rebooted
    node.open()
    node.bus.publish(CAMERA_STATE.at("home", camera="yard"), camera_state(node="porch", privacy=True))
    wait_until(lambda: "private" in str(fleet.ask("schedule", "run", "restarts").exception), what="the refusal")
    assert not fleet.rebooted
    node.bus.publish(CAMERA_STATE.at("home", camera="yard"), camera_state(node="porch"))
    wait_until(lambda: fleet.ask("schedule", "run", "restarts").exit_code == 0, what="the restart")
    assert fleet.rebooted == ["http://127.0.0.1:9/onvif/device_service"]
    assert not node.escalations
    node.refuses = "the camera gives no pictures: no route to host"
    node.on_refused = lambda: fleet.clock.advance(300)
    assert "has not come back" in str(fleet.ask("schedule", "run", "restarts").exception)
    wait_until(lambda: node.escalations, what="the escalation")
    assert node.escalations[0].rule == "camera-reboot"
    assert node.escalations[0].evidence


def test_a_scheduled_restart_waits_for_the_quiet_hour_and_for_the_end_of_what_moves(node: Node, fleet: Fleet) -> None:
    def at(hour: int, minute: int) -> None:
        fleet.clock.advance((datetime(2026, 6, 2, hour, minute, tzinfo=UTC) - fleet.clock.now()).total_seconds())

    def waits() -> bool:
        return "yard waits for its restart" in fleet.ask("schedule", "list").stdout

    at(0, 0)
    wait_until(waits, what="the restart that is due")
    node.open("m-1")
    # Nothing is known of this camera: nights are quiet from one o'clock on.
    assert not fleet.rebooted
    wait_until(lambda: list(fleet.scheduler.open_events("yard")) == ["m-1"], what="the movement")
    at(1, 30)
    assert waits()
    assert not fleet.rebooted
    node.open()
    wait_until(lambda: fleet.rebooted, what="the restart")
    wait_until(lambda: not waits(), what="its end")


def test_schedules_are_listed_run_now_and_their_outcome_is_kept(node: Node, fleet: Fleet) -> None:
    assert "1 pictures" in fleet.ask("schedule", "run", "pictures").stdout.splitlines()
    assert node.taken
    rows = {row["name"]: row for row in listed(fleet.ask("schedule", "list", "--json"))}
    assert rows["pictures"]["last"]["outcome"] == "done"
    assert rows["pictures"]["when"] == "at 04:00 every day"
    runs = listed(fleet.ask("schedule", "next", "-n", "3", "--json"))
    assert {run["name"] for run in runs} == {"restarts", "pictures", "all-well"}
    assert [run["at"] for run in runs] == sorted(run["at"] for run in runs)
    assert "there is no schedule 'nightly'" in str(fleet.ask("schedule", "run", "nightly").exception)


def test_a_model_waits_for_its_hours(node: Node, fleet: Fleet, settings: Settings) -> None:
    done = fleet.ask("models", "use", "hog-people")
    assert "waits until 2026-06-02T02:00+00:00" in done.stdout, done.output
    assert fleet.ask("models", "use", "hog-people", "--class", "slow", "--now").exit_code == 0
    wait_until(lambda: [manifest.name for manifest in node.manifests] == ["slow"], what="the one that does not wait")
    fleet.clock.advance((datetime(2026, 6, 2, 2, 0, 1, tzinfo=UTC) - fleet.clock.now()).total_seconds())
    wait_until(lambda: [manifest.name for manifest in node.manifests] == ["slow", "default"], what="the other")
    wait_until(lambda: not list((settings.fleet.registry / "staged").glob("*.json")), what="nothing that waits")
