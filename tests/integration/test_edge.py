"""The edge as a process, on a real broker, with real pictures."""

from __future__ import annotations

import contextlib
import io
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from broker import Bus, Delivery, Frame, listen
from broker.messages import CameraState, MotionEvent, NodeHealth, NodeStatus, OpenEvents
from broker.outbox import split_event_id
from broker.topics import everything
from config.settings import BusSettings, Settings
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
STREET = "street=synthetic:street?seed=3"


def command(folder: Path, url: str, *cameras: str) -> list[str]:
    """`vigil ... edge --camera ...`, with its state below `folder`."""
    site_file = folder / "site.yaml"
    site_file.write_text("site: home\nnode: node-1\n")
    root = ["--config", str(site_file), "--bus", url, "--state", str(folder / "state"), "--log-format", "json"]
    return [sys.executable, "-m", "console", *root, "edge", *(f"--camera={camera}" for camera in cameras)]


@dataclass(slots=True)
class Site:
    """A site whose edge is a process of its own; this end listens."""

    folder: Path
    mosquitto: Mosquitto
    frames: list[Frame] = field(default_factory=list)
    motions: list[MotionEvent] = field(default_factory=list)
    states: list[CameraState] = field(default_factory=list)
    active: list[str] = field(default_factory=list)
    open_ids: list[tuple[str, ...]] = field(default_factory=list)
    status: list[NodeStatus] = field(default_factory=list)
    health: list[NodeHealth] = field(default_factory=list)

    def on_message(self, delivery: Delivery) -> None:
        match delivery.content:
            case Frame() as frame:
                self.frames.append(frame)
            case MotionEvent() as event:
                self.motions.append(event)
            case CameraState() as state:
                self.states.append(state)
            case OpenEvents() as left:
                self.open_ids.append(left.ids)
            case NodeStatus() as status:
                self.status.append(status)
            case NodeHealth() as health:
                self.health.append(health)
            case "ON" | "OFF" as active:
                self.active.append(active)

    def state(self, camera: str) -> CameraState | None:
        return next((state for state in reversed(self.states) if state.camera == camera), None)

    def is_state(self, camera: str, wanted: str) -> bool:
        state = self.state(camera)
        return state is not None and state.state == wanted

    @contextlib.contextmanager
    def edge(self, *cameras: str) -> Iterator[subprocess.Popen[bytes]]:
        with (self.folder / "edge.log").open("ab") as output:
            process = subprocess.Popen(
                command(self.folder, self.mosquitto.url, *cameras),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait(10)


def listener(url: str) -> Bus:
    return listen(Settings(site="home", node="node-2", bus=BusSettings(url=url)), "test")


@pytest.fixture
def site(tmp_path: Path, mosquitto: Mosquitto) -> Iterator[Site]:
    site = Site(tmp_path, mosquitto)
    bus = listener(mosquitto.url)
    bus.subscribe_filter(everything("home"), site.on_message)
    bus.start()
    assert bus.wait_connected(30)
    yield site
    bus.close(0)


def test_people_in_the_street_become_motion_and_frames_and_a_stopped_node_says_goodbye(site: Site) -> None:
    with site.edge(STREET) as process:
        wait_until(lambda: len([f for f in site.frames if f.meta.moving]) >= 5, timeout_s=60, what="frames")
        wait_until(lambda: "update" in [event.type for event in site.motions], timeout_s=30, what="a motion update")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        wait_until(lambda: site.status and site.status[-1].state == "offline")
    with Image.open(io.BytesIO(site.frames[-1].jpeg)) as picture:
        picture.load()
        meta = site.frames[-1].meta
        assert picture.size == (meta.width, meta.height)
        assert (meta.camera, meta.node, bool(meta.motion)) == ("street", "node-1", True)
    assert site.motions[0].type == "start"
    assert (site.motions[-1].type, site.motions[-1].ended) == ("end", "interrupted")
    assert site.motions[-1].motion_id == [e for e in site.motions if e.type == "start"][-1].id
    assert [split_event_id(event.id)[2] for event in site.motions] == list(range(1, len(site.motions) + 1))
    assert site.active[0] == "OFF"
    assert site.active[-1] == "OFF"
    assert "ON" in site.active
    last = site.state("street")
    assert last is not None
    assert (last.state, last.error, last.source) == ("offline", None, "synthetic:street?seed=3")
    assert site.health[-1].counts["frames_sent"] == len(site.frames)


def test_a_video_and_a_broken_camera_on_one_node(site: Site, shared_data: Path) -> None:
    (site.folder / "text.avi").write_text("this is not a video\n" * 50)
    cameras = [f"yard=file:{shared_data}/pedestrians.avi", f"door=file:{site.folder}/text.avi"]
    with site.edge(*cameras) as process:
        wait_until(lambda: site.is_state("door", "error"), timeout_s=60, what="the broken camera's state")
        wait_until(lambda: len(site.frames) > 5, timeout_s=30, what="the other's frames")
        assert process.poll() is None
    broken, sound = site.state("door"), site.state("yard")
    assert broken is not None
    assert "text.avi is not a video that GStreamer can read" in str(broken.error)
    assert sound is not None
    assert (sound.state, sound.width, sound.height) == ("online", 480, 360)
    assert {frame.meta.camera for frame in site.frames} == {"yard"}


def test_a_killed_node_leaves_a_movement_open_and_the_next_ends_it(site: Site) -> None:
    with site.edge(STREET) as process:
        wait_until(lambda: site.motions and site.open_ids[-1:] == [(site.motions[0].id,)], timeout_s=60)
        process.kill()
        process.wait(10)
    wait_until(lambda: site.status and site.status[-1].state == "offline", timeout_s=60, what="the will")
    start = site.motions[0]
    assert site.active[-1] == "ON"
    site.active.clear()
    site.motions.clear()
    with site.edge(STREET):
        wait_until(lambda: [e for e in site.motions if e.type == "end"], timeout_s=60, what="the missing end")
        wait_until(lambda: site.active)
    end = next(event for event in site.motions if event.type == "end")
    assert (end.motion_id, end.ended, end.started_at) == (start.id, "interrupted", start.started_at)
    assert site.active[0] == "OFF"


def test_a_movement_that_a_killed_node_left_open_is_ended_once_also_when_the_broker_forgot_it(site: Site) -> None:
    with site.edge(STREET) as process:
        wait_until(lambda: site.motions and site.open_ids[-1:] == [(site.motions[0].id,)], timeout_s=60)
        start = site.motions[0]
        process.kill()
        process.wait(10)
    site.mosquitto.restart(forget=True)
    left_open = start
    for _ in range(2):
        site.states.clear()
        with site.edge(STREET) as process:
            wait_until(lambda: site.is_state("street", "online"), timeout_s=60)
            wait_until(partial(interrupted, site, left_open), timeout_s=30, what="the missing end")
            wait_until(partial(started_after, site, left_open), timeout_s=60, what="a movement of its own")
            process.kill()
            process.wait(10)
        left_open = started_after(site, left_open)[-1]
    assert len(interrupted(site, start)) == 1


def started_after(site: Site, earlier: MotionEvent) -> list[MotionEvent]:
    """The movements that began later; without a bridge their starts are sent again and again."""
    return [event for event in site.motions if event.type == "start" and event.at > earlier.at]


def interrupted(site: Site, start: MotionEvent) -> set[str]:
    """Ids of the messages that end a movement; without a bridge each is sent again and again."""
    ends = [event for event in site.motions if event.type == "end" and event.motion_id == start.id]
    assert {event.ended for event in ends} <= {"interrupted"}
    return {event.id for event in ends}


def test_a_broker_that_forgot_everything_hears_the_state_again(site: Site) -> None:
    with site.edge(STREET):
        wait_until(lambda: site.is_state("street", "online"), timeout_s=60)
        site.mosquitto.restart(forget=True)
        late = Site(site.folder, site.mosquitto)
        bus = listener(site.mosquitto.url)
        bus.subscribe_filter(everything("home"), late.on_message)
        bus.start()
        wait_until(lambda: late.is_state("street", "online"), timeout_s=30, what="the state after the restart")
        wait_until(lambda: late.active and late.frames, timeout_s=30, what="motion and frames after the restart")
        bus.close(0)


def test_a_source_that_ends_leaves_the_node_up(site: Site, shared_data: Path) -> None:
    with site.edge(f"yard=file:{shared_data}/pedestrians.avi?pace=max") as process:
        wait_until(lambda: site.is_state("yard", "offline") and site.motions, timeout_s=60)
        wait_until(lambda: (site.state("yard") or site.states[0]).error == "the source has ended", timeout_s=30)
        wait_until(lambda: site.motions[-1].ended in {"interrupted", "quiet"}, what="the end of what moved")
        assert process.poll() is None


@pytest.mark.parametrize(
    ("cameras", "status", "says"),
    [
        (["yard=ftp://10.0.0.1/"], 78, "vigil: cameras.yard.source: sources of the kind 'ftp' are not known"),
        (["yard=file:a.mp4?pace=fast"], 78, "vigil: cameras.yard.source: pace=fast: write pace=own or pace=max"),
        (["yard=file:/none/a.mp4"], 1, "vigil: camera yard: there is no file /none/a.mp4"),
        (["a/b=synthetic:street"], 2, "'a/b' is not a name: use letters, digits, '-' and '_'"),
        (["yard"], 2, "write NAME=SOURCE, such as yard=file:yard.mp4"),
        (["a=synthetic:street", "a=synthetic:street"], 2, "two cameras cannot both be called 'a'"),
    ],
)
def test_what_cannot_work_ends_it_with_one_clear_line(
    tmp_path: Path, cameras: list[str], status: int, says: str
) -> None:
    ended = subprocess.run(
        command(tmp_path, "mqtt://127.0.0.1:9", *cameras),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == status, ended.stderr
    assert says in ended.stderr
    assert "pw" not in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr


def test_the_edge_imports_no_model_runtime_and_no_gstreamer() -> None:
    heavy = "cv2 onnxruntime fastapi confluent_kafka amqtt gi"
    show = f"import sys, edge.cli, edge.node; print([m for m in '{heavy}'.split() if m in sys.modules])"
    said = subprocess.run(
        [sys.executable, "-c", show], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert said.stdout.strip() == "[]"
