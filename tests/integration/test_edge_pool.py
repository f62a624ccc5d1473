"""Nodes that begin without a camera and share those of a pool: processes on a real broker."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from broker import Bus, Delivery, listen
from broker.messages import CameraDocument, CameraState, MotionEvent, NodeDocument, NodeStatus, OpenEvents
from broker.topics import CAMERA_MOTION_OPEN, REGISTRY_CAMERA, REGISTRY_NODE, everything
from config.settings import BusSettings, Settings
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
CAMERAS = ("c-1", "c-2")


@dataclass(slots=True)
class Site:
    """The site's end: it says what there is, and hears how it is."""

    folder: Path
    bus: Bus
    states: dict[str, list[CameraState]] = field(default_factory=dict)
    online: set[str] = field(default_factory=set)
    open_ids: dict[str, tuple[str, ...]] = field(default_factory=dict)
    motions: list[MotionEvent] = field(default_factory=list)

    def on_message(self, delivery: Delivery) -> None:
        match delivery.content:
            case CameraState() as state:
                self.states.setdefault(state.camera, []).append(state)
            case OpenEvents() as left if delivery.topic.spec is CAMERA_MOTION_OPEN:
                self.open_ids[left.camera] = left.ids
            case MotionEvent() as event:
                self.motions.append(event)
            case NodeStatus(role="edge") as status:
                (self.online.add if status.state == "online" else self.online.discard)(status.node)

    def say(self, camera: str, **fields: object) -> None:
        given = {"camera": camera, "source": "synthetic:street?width=160&height=120", "revision": 1, **fields}
        self.bus.publish(REGISTRY_CAMERA.at("home", camera=camera), CameraDocument(**given))  # type: ignore[arg-type]

    def state(self, camera: str) -> CameraState:
        return self.states[camera][-1]

    def watchers(self) -> list[str]:
        """Who watches each of the cameras."""
        now = [self.states[camera][-1] for camera in CAMERAS if camera in self.states]
        return [state.node if state.state == "online" else "" for state in now]

    @contextlib.contextmanager
    def edge(self, url: str, node: str) -> Iterator[subprocess.Popen[bytes]]:
        root = ["--bus", url, "--node", node, "--state", str(self.folder / node), "--log-format", "json"]
        with (self.folder / f"{node}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "console", *root, "edge"],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait(10)


@pytest.fixture
def site(tmp_path: Path, mosquitto: Mosquitto) -> Iterator[Site]:
    bus = listen(Settings(site="home", node="hub", bus=BusSettings(url=mosquitto.url)), "test")
    site = Site(tmp_path, bus)
    bus.subscribe_filter(everything("home"), site.on_message)
    bus.start()
    assert bus.wait_connected(30)
    yield site
    bus.close(0)


def until(condition: Callable[[], object], what: str) -> None:
    wait_until(condition, timeout_s=60, what=what)


def begin(site: Site) -> None:
    for node in ("ash", "elm"):
        site.bus.publish(REGISTRY_NODE.at("home", node=node), NodeDocument(node=node, revision=1, pools=("street",)))
    for camera in CAMERAS:
        site.say(camera, pool="street", settings={"motion": {"hold_s": 600}})


def test_nodes_without_a_camera_share_those_of_a_pool_and_take_over_what_a_killed_one_had(
    site: Site, mosquitto: Mosquitto
) -> None:
    begin(site)
    with site.edge(mosquitto.url, "ash") as ash, site.edge(mosquitto.url, "elm"):
        until(lambda: sorted(site.watchers()) == ["ash", "elm"], "one camera each")
        until(lambda: all(map(site.open_ids.get, CAMERAS)), "movements")
        lost = site.open_ids[CAMERAS[site.watchers().index("ash")]]
        ash.kill()
        until(lambda: site.watchers() == ["elm", "elm"], "both at the one that is left")
        until(
            lambda: [e for e in site.motions if e.type == "end" and e.motion_id in lost], "the end of what moved there"
        )
        site.say("c-1", pool="street", excluded=True, revision=2)
        until(lambda: site.state("c-1").state == "offline", "what nobody is to touch")
        site.say("c-2", node="elm", source="v4l2:/dev/video-none", revision=3)
        until(lambda: site.state("c-2").state == "error", "a device that is not there")
        assert "gives no picture" in str(site.state("c-2").error)
        site.say("c-2", node="elm", revision=4)
        until(lambda: site.watchers() == ["", "elm"], "one that is cured")


if os.environ.get("VIGIL_TEST_LONG"):

    def test_who_is_back_gets_its_part_and_who_ends_gives_its_own_away_and_nobody_speaks_late(
        site: Site, mosquitto: Mosquitto
    ) -> None:
        begin(site)
        with site.edge(mosquitto.url, "elm") as elm:
            until(lambda: site.watchers() == ["elm", "elm"], "both at the only one")
            with site.edge(mosquitto.url, "ash"):
                until(lambda: sorted(site.watchers()) == ["ash", "elm"], "one camera each")
                before = {camera: len(site.states[camera]) for camera in CAMERAS}
                elm.send_signal(signal.SIGTERM)
                until(lambda: site.watchers() == ["ash", "ash"], "both at the one that stays")
                assert elm.wait(30) == 0
                for camera, count in before.items():
                    nodes = [state.node for state in site.states[camera][count:]]
                    assert nodes == sorted(nodes, key=["elm", "ash"].index), nodes
