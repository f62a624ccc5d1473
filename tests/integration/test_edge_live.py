"""An edge that is told things while it runs: a real broker, real cameras, the process itself."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker import Bus, Delivery, Frame, connect, listen
from broker.messages import (
    CameraDocument,
    CameraState,
    ClipEvent,
    Command,
    CommandValue,
    Escalation,
    NodeHealth,
    Reject,
    Reply,
)
from broker.topics import (
    CAMERA_ESCALATION,
    CAMERA_FRAME,
    CAMERA_SET,
    CAMERA_SNAPSHOT,
    NODE_COMMAND,
    REGISTRY_CAMERA,
    everything,
)
from config.settings import BusSettings, Settings
from tests.support.camera import MockCamera
from tests.support.messages import escalation
from tests.support.mosquitto import Mosquitto
from tests.support.ports import free_port
from tests.support.waiting import wait_until

pytest.importorskip("gi", reason="no GStreamer: see deploy/packages.txt")

ROOT = Path(__file__).parents[2]


@dataclass(slots=True)
class Site:
    """A node with two cameras, one of which is not there; this end tells it things and listens."""

    folder: Path
    bus: Bus
    said: list[Delivery] = field(default_factory=list)

    def write(self, **cameras: str) -> None:
        """The node's site file; each camera as YAML in one line."""
        lines = "".join(f"  {name}: {{{text}}}\n" for name, text in cameras.items())
        (self.folder / "vigil.yaml").write_text(f"site: home\nnode: node-1\ncameras:\n{lines}")

    @contextlib.contextmanager
    def edge(self, url: str) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-P", "-m", "console", "--config", str(self.folder / "vigil.yaml"), "--bus", url]
        with (self.folder / "edge.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, "--state", str(self.folder / "state"), "--log-format", "json", "edge"],
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

    def tell(self, name: str, value: str | float, *, camera: str = "yard") -> Reply:
        """Set a property, and wait for the answer."""
        about = f"{camera}-{name}-{value}"
        topic = CAMERA_SET.at("home", camera=camera, property=name)
        self.bus.publish(topic, CommandValue(value=value, correlation_id=about))
        return self._reply(about)

    def order(self, name: str, **arguments: str) -> Reply:
        """Order the process, and wait for the answer."""
        about = f"{name}-{len(self.said)}"
        topic = NODE_COMMAND.at("home", node="node-1", role="edge")
        self.bus.publish(topic, Command(name=name, correlation_id=about, arguments=arguments))
        return self._reply(about)

    def _reply(self, about: str) -> Reply:
        def found() -> list[Reply]:
            said = [d.content for d in list(self.said) if isinstance(d.content, Reply)]
            return [reply for reply in said if reply.correlation_id == about]

        wait_until(found, what=f"the answer to {about}")
        return found()[0]

    def state(self, camera: str = "yard") -> CameraState:
        """The last state of a camera; waits for the first."""

        def found() -> list[CameraState]:
            return [
                d.content for d in list(self.said) if isinstance(d.content, CameraState) and d.topic.camera == camera
            ]

        wait_until(found, what=f"a state of {camera}")
        return found()[-1]

    def frames(self, camera: str = "yard") -> list[Frame]:
        of_camera = [d for d in list(self.said) if d.topic.spec is CAMERA_FRAME and d.topic.camera == camera]
        return [d.content for d in of_camera if isinstance(d.content, Frame)]

    def escalate(self, url: str) -> str:
        """Raise something about the camera, as a detector elsewhere does; returns its id."""
        settings = Settings(site="home", node="node-2", bus=BusSettings(url=url), state_dir=self.folder / "drill")
        bus = connect(settings, "drill", with_outbox=True)
        topic = CAMERA_ESCALATION.at("home", camera="yard", origin=bus.origin)
        event_id = bus.publish_event(topic, lambda event_id: escalation(event_id, captured_at=datetime.now(UTC)))
        bus.start()
        wait_until(lambda: event_id in [d.content.id for d in self.heard(Escalation)])  # type: ignore[union-attr]
        bus.close(0)
        return event_id

    def clips(self) -> list[ClipEvent]:
        return [d.content for d in list(self.said) if isinstance(d.content, ClipEvent)]

    def heard(self, kind: type) -> list[Delivery]:
        return [d for d in list(self.said) if isinstance(d.content, kind)]


@pytest.fixture
def site(tmp_path: Path, mosquitto: Mosquitto) -> Iterator[Site]:
    bus = listen(Settings(site="home", node="node-2", bus=BusSettings(url=mosquitto.url)), "test")
    site = Site(tmp_path, bus)
    bus.subscribe_filter(everything("home"), site.said.append)
    bus.start()
    assert bus.wait_connected(30)
    yield site
    bus.close(0)


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[MockCamera]:
    folder = tmp_path / "camera"
    folder.mkdir()
    with MockCamera(folder, "synthetic:street?fps=10&width=320&height=180") as camera:
        yield camera


def test_every_property_of_a_real_camera_is_set_and_answered_beside_a_broken_one(
    site: Site, mosquitto: Mosquitto, camera: MockCamera
) -> None:
    site.write(
        yard=f"source: '{camera.rtsp_url}', sub_source: '{camera.sub_url}', idle_fps: 4, "
        "recording: {pre_s: 1, post_s: 0}",
        gate=f"source: 'rtsp://127.0.0.1:{free_port()}/none'",
    )
    with site.edge(mosquitto.url) as process:
        wait_until(site.frames, what="frames")
        assert site.tell("recording", "ON").result["recording"] == "on"
        assert site.tell("detection", "OFF").result["detection"] == "OFF"
        wait_until(lambda: site.frames()[-1].meta.recorded and not site.frames()[-1].meta.detect)
        for mode in ("eco", "zoom", "monitor"):
            assert site.tell("mode", mode).result["mode"] == mode
            wait_until(lambda mode=mode: site.frames()[-1].meta.mode == mode, what=mode)  # type: ignore[misc]
        assert site.tell("snapshot", "now").ok
        wait_until(lambda: [d for d in site.said if d.topic.spec is CAMERA_SNAPSHOT])
        clip = site.tell("clip", 2)
        assert (clip.reason, clip.ok) == ("", True)
        assert Path(clip.result["uri"].removeprefix("file://")).stat().st_size == int(clip.result["size_bytes"])
        wait_until(lambda: site.heard(ClipEvent))
        event_id = site.escalate(mosquitto.url)
        wait_until(lambda: [c for c in site.clips() if (c.reason, c.about, c.error) == ("escalation", event_id, None)])
        assert site.tell("privacy", "ON").result["recording"] == "off"
        shown = len(site.frames())
        assert "privacy is on" in site.tell("clip", 1).reason
        assert site.tell("mode", "off").result["mode"] == "off"
        wait_until(lambda: site.state().state == "offline")
        assert len(site.frames()) <= shown + 1, "one may have been on its way"
        assert site.tell("privacy", "auto").ok
        assert site.tell("mode", "auto").ok
        wait_until(lambda: site.state().state == "online")
        assert "has nothing at port" in str(site.state("gate").error)
        assert "write monitor, zoom, eco, off" in site.tell("mode", "night", camera="gate").reason
        wait_until(
            lambda: [d for d in site.heard(NodeHealth) if isinstance(d.content, NodeHealth) and d.content.cameras]
        )
        assert process.poll() is None


def test_a_plain_command_line_sets_a_mode_and_hears_of_a_mistake(site: Site, mosquitto: Mosquitto) -> None:
    site.write(street="source: synthetic:street")
    topic = str(CAMERA_SET.at("home", camera="street", property="mode"))
    publish = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(mosquitto.port), "-t", topic]
    with site.edge(mosquitto.url):
        wait_until(lambda: site.state("street").state == "online")
        subprocess.run([*publish, "-m", "off"], check=True, timeout=30)
        wait_until(lambda: site.state("street").mode == "off")
        subprocess.run([*publish, "-m", "dark"], check=True, timeout=30)
        wait_until(lambda: site.heard(Reject))
        (reject,) = site.heard(Reject)
        assert isinstance(reject.content, Reject)
        assert "mode cannot be 'dark': write monitor" in reject.content.reason
        done = vigil_camera(mosquitto.url, "street", "mode", "eco")
        assert (done.returncode, done.stderr) == (0, "")
        assert "mode         eco\n" in done.stdout
        refused = vigil_camera(mosquitto.url, "street", "mode", "dark")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.startswith("vigil: mode cannot be 'dark': write monitor, zoom, eco, off")
    nobody = vigil_camera(mosquitto.url, "street", "mode", "eco", "--wait", "300ms")
    assert nobody.returncode == 69
    assert "no node of site 'home' watches camera 'street' now" in nobody.stderr


def vigil_camera(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What `vigil camera set` says."""
    command = [sys.executable, "-P", "-m", "console", "--bus", url, "--site", "home", "camera", "set", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_a_changed_file_and_a_document_touch_the_camera_that_they_change(site: Site, mosquitto: Mosquitto) -> None:
    site.write(street="source: synthetic:street", yard="source: 'synthetic:street?seed=2', idle_fps: 1")
    with site.edge(mosquitto.url) as process:
        wait_until(lambda: site.frames("street") and site.frames())
        site.write(street="source: synthetic:street", yard="source: 'synthetic:street?seed=2', idle_fps: 9")
        wait_until(lambda: site.state().fps == 9, what="the file's change, which nobody asked to read")
        yard = REGISTRY_CAMERA.at("home", camera="yard")
        site.bus.publish(yard, CameraDocument(camera="yard", source="", revision=1, settings={"idle_fps": 8}))
        wait_until(lambda: site.state().fps == 8)
        site.bus.publish(yard, CameraDocument(camera="yard", source="", revision=2, settings={"idle_fps": 0}))
        wait_until(lambda: "cameras.yard.idle_fps: Input should be greater than 0" in str(site.state().error))
        (site.folder / "vigil.yaml").write_text("cameras: [")
        assert "not valid YAML" in site.order("reload").reason
        site.bus.publish(yard, CameraDocument(camera="yard", source="", revision=3, node="node-9"))
        wait_until(lambda: site.order("ping").result["cameras"] == "street")
        assert site.state().state == "offline"
        assert process.poll() is None
    states = [d.content for d in site.heard(CameraState) if d.topic.camera == "street"]
    assert [state.state for state in states if isinstance(state, CameraState)].count("offline") <= 2, "before its first"
