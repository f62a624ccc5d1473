"""The registry's commands and `vigil fleet`, on a real broker: what people do, and what becomes of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from broker import Bus, Delivery, listen
from broker.messages import CameraDocument, CameraState, RegistryIndex
from broker.topics import CAMERA_STATE, REGISTRY_CAMERA, REGISTRY_INDEX
from config.settings import BusSettings, Settings
from config.sources import load_settings
from console.cli import cli
from tests.support.messages import AT, camera_state
from tests.support.mosquitto import Mosquitto
from tests.support.ports import free_port
from tests.support.server import ServerProcess
from tests.support.site import SecureBroker
from tests.support.site import Site as SecureSite
from tests.support.waiting import wait_until


class Site:
    """A broker, a folder, and a person who gives commands; this end listens."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self.registry = folder / "registry"
        self.file = folder / "site.yaml"
        self.file.write_text(f"site: home\nnode: hub\nfleet: {{registry: {self.registry}, door_port: 0}}\n")
        self.documents: dict[str, CameraDocument] = {}
        self.index: RegistryIndex | None = None
        self.bus: Bus = listen(Settings(site="home", node="porch", bus=BusSettings(url=url)), "edge")
        self.bus.subscribe(REGISTRY_CAMERA, self._on_delivery)
        self.bus.subscribe(REGISTRY_INDEX, self._on_delivery)
        self.bus.start()
        assert self.bus.wait_connected(10)
        # As the fleet's process leaves it: what an index names is all that there is, so that nobody waits for more.
        self.bus.publish(REGISTRY_INDEX.at("home"), RegistryIndex(revision=1, at=AT))
        self.bus.disown(REGISTRY_INDEX.at("home"))

    @property
    def flags(self) -> list[str]:
        return ["--config", str(self.file), "--bus", self.url, "--state", str(self.folder / "state")]

    def vigil(self, *arguments: str, typed: str | None = None, away: bool = False) -> Result:
        flags = [*self.flags, *(("--bus", f"mqtt://127.0.0.1:{free_port()}") if away else ())]
        return CliRunner().invoke(cli, [*flags, *arguments], input=typed)

    def camera(self, name: str) -> Path:
        return self.registry / "cameras" / f"{name}.yaml"

    def add_yard(self) -> None:
        done = self.vigil("camera", "add", "yard", "rtsp://10.0.0.7/s1", "--node", "porch", "--wait", "10ms")
        assert done.exit_code == 0, done.output

    @contextmanager
    def fleet(self) -> Iterator[ServerProcess]:
        command = [sys.executable, "-P", "-m", "console", *self.flags, "--log-format", "json", "fleet"]
        process = ServerProcess(command, log=self.folder / "fleet.log", ready="bus.connected", start_timeout_s=60)
        process.start()
        try:
            yield process
        finally:
            process.kill()

    def wait_yard(self, holds: Callable[[CameraDocument], object]) -> CameraDocument:
        """The camera's document, as this end hears of it: some time after the command that published it has ended."""
        wait_until(lambda: "yard" in self.documents and holds(self.documents["yard"]), what="the document of yard")
        return self.documents["yard"]

    def _on_delivery(self, delivery: Delivery) -> None:
        match delivery.content:
            case CameraDocument() as document:
                self.documents[document.camera] = document
            case RegistryIndex() as index:
                self.index = index
            case None:
                self.documents.pop(delivery.topic.camera, None)


@pytest.fixture
def site(tmp_path: Path, mosquitto: Mosquitto) -> Iterator[Site]:
    site = Site(tmp_path, mosquitto.url)
    yield site
    site.bus.close(0)


def refused(result: Result) -> str:
    assert result.exception is not None, result.output
    return str(result.exception)


def test_a_camera_is_added_and_seen_to_work_without_a_process_of_the_fleet(site: Site) -> None:
    state = camera_state("yard", node="porch", width=1280, height=720, fps=1.0)
    site.bus.publish(CAMERA_STATE.at("home", camera="yard"), state)
    done = site.vigil(
        "camera", "add", "yard", "--node", "porch", "--area", "Garden", "--set", "motion.sensitivity=0.7",
        typed="rtsp://admin:s3cr%40t@10.0.0.7/s1\n",
    )  # fmt: skip
    assert done.output.splitlines()[-1] == "yard is online on porch: 1280x720"
    assert "s3cr" not in done.output
    document = site.wait_yard(lambda yard: yard.settings)
    assert (document.source, document.node, document.area) == ("rtsp://10.0.0.7/s1", "porch", "Garden")
    assert document.settings == {"motion": {"sensitivity": 0.7}}
    assert "s3cr" not in site.camera("yard").read_text()
    assert yaml.safe_load((site.registry / "logins.yaml").read_text())["yard"]["password"] == "s3cr@t"
    row = json.loads(site.vigil("camera", "list", "--json").stdout)
    assert (row["camera"], row["state"], row["published"], row["username"]) == ("yard", "online", True, "admin")
    assert "there is a camera 'yard' already" in refused(site.vigil("camera", "add", "yard", "rtsp://10.0.0.7/s1"))


def test_a_camera_that_does_not_run_says_why(site: Site) -> None:
    state = CameraState(camera="yard", state="error", node="porch", at=AT, error="401: wrong password")
    site.bus.publish(CAMERA_STATE.at("home", camera="yard"), state)
    done = site.vigil("camera", "add", "yard", "rtsp://10.0.0.7/s1", "--node", "porch", "--wait", "500ms")
    assert "yard does not run: porch says error: 401: wrong password" in done.output
    listed = site.vigil("camera", "list")
    assert "error  porch" in listed.output
    assert "401: wrong password" in listed.output


def test_the_fleets_process_publishes_what_is_edited_by_hand(site: Site) -> None:
    with site.fleet() as process:
        site.add_yard()
        before = site.wait_yard(lambda yard: yard.node == "porch").revision
        site.camera("yard").write_text("source: rtsp://10.0.0.7/s1\nnode: porch\nmode: off\n")
        assert site.wait_yard(lambda yard: yard.settings == {"mode": "off"}).revision > before
        site.camera("yard").write_text("source: rtsp://10.0.0.7/s1\nidle_fps: fast\n")
        wait_until(lambda: "registry.file_broken" in process.said(), what="word of the broken file")
        assert f"{site.camera('yard')}:2: idle_fps: " in process.said()
        done = site.vigil("camera", "edit", "yard", "--set", "idle_fps=2")
        assert done.exit_code == 0, done.output
        site.wait_yard(lambda yard: yard.settings == {"idle_fps": 2.0})
        second = site.vigil("fleet")
        assert "`vigil fleet` runs on this machine already" in refused(second)
        site.vigil("camera", "remove", "yard", "--yes")
        wait_until(lambda: not site.documents, what="a document that is gone")


def test_a_second_registry_on_the_bus_is_refused_and_takes_nothing_away(site: Site, tmp_path: Path) -> None:
    site.add_yard()
    elsewhere = ("--node", "laptop", "--state", str(tmp_path / "laptop"))
    other = tmp_path / "other.yaml"
    other.write_text(f"site: home\nfleet: {{registry: {tmp_path / 'other'}}}\n")
    with site.fleet():
        wait_until(lambda: site.vigil("registry", "diff").exit_code == 0, what="a fleet that says what the folder says")
        flags = ["--config", str(other), "--bus", site.url, *elsewhere]
        done = CliRunner().invoke(cli, [*flags, "camera", "add", "stray", "rtsp://10.0.0.8/s1"])
        assert "is kept by `vigil fleet` on hub" in done.output, done.output
    wait_until(lambda: site.documents.keys() == {"yard"}, what="the document of yard alone")
    assert site.camera("yard").exists()


def test_without_a_broker_the_files_are_changed_and_listed(site: Site) -> None:
    done = site.vigil("camera", "add", "yard", "rtsp://10.0.0.7/s1", away=True)
    assert done.exit_code == 0
    assert "not published yet: no broker at mqtt://127.0.0.1:" in done.output
    listed = site.vigil("camera", "list", away=True)
    assert listed.exit_code == 0
    assert "yard    ?      hub" in listed.output
    diff = site.vigil("registry", "diff")
    assert (diff.exit_code, diff.output) == (1, "camera/yard only in the folder\n")
    assert site.vigil("registry", "sync").output == "published camera/yard\n"
    assert site.vigil("registry", "diff").exit_code == 0
    assert site.vigil("registry", "sync").output == "nothing to do: 1 camera and 0 nodes are on the bus\n"


def test_a_difference_is_shown_setting_by_setting(site: Site) -> None:
    site.add_yard()
    site.camera("yard").write_text("source: rtsp://10.0.0.7/s1\nnode: porch\nmotion: {sensitivity: 0.7}\n")
    site.camera("broken").write_text("idle_fps: 0\n")
    shown = site.vigil("registry", "diff")
    assert "camera/yard differs\n  settings.motion.sensitivity: nothing on the bus, 0.7 in the folder" in shown.output
    assert "broken.yaml:1: idle_fps: " in refused(shown)
    assert "broken.yaml: source: Field required" in refused(site.vigil("registry", "sync"))
    site.wait_yard(lambda yard: yard.settings == {"motion": {"sensitivity": 0.7}})


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that edits: a script of Python, whose lines a test writes; `text` goes in and comes out."""
    script = tmp_path / "editor.py"
    monkeypatch.setenv("EDITOR", f"{sys.executable} {script}")
    monkeypatch.delenv("VISUAL", raising=False)
    return script


def edits(script: Path, *lines: str) -> None:
    body = ["import pathlib, sys", "file = pathlib.Path(sys.argv[1])", "text = file.read_text()", *lines]
    script.write_text("\n".join([*body, "file.write_text(text)"]) + "\n")


def test_the_second_of_two_editors_sees_what_the_first_has_changed(site: Site, editor: Path) -> None:
    site.add_yard()
    first = site.camera("yard").read_text() + "idle_fps: 2\n"
    edits(editor, f"pathlib.Path({str(site.camera('yard'))!r}).write_text({first!r})", "text += 'area: Garden\\n'")
    done = site.vigil("camera", "edit", "yard")
    said = refused(done)
    assert done.exit_code == 1
    assert "somebody else has changed it since you read it; nothing was written" in said
    assert "+idle_fps: 2" in said
    (mine,) = site.registry.glob("cameras/*.mine")
    assert str(mine) in said
    assert mine.read_text().endswith("area: Garden\n")
    assert site.camera("yard").read_text() == first


def test_an_edit_counts_once_it_is_right(site: Site, editor: Path) -> None:
    site.add_yard()
    edits(editor, "text = '# mine\\n' + text + 'idle_fps: x\\n'")
    done = site.vigil("camera", "edit", "yard")
    assert done.exit_code == 78
    assert "yard.yaml:4: idle_fps: Input should be a valid number" in done.output
    assert "nothing was written; your text is kept in" in done.output
    edits(editor, "text = '# mine\\n' + text + 'idle_fps: 4\\n'")
    assert site.vigil("camera", "edit", "yard").exit_code == 0
    assert site.camera("yard").read_text().startswith("# mine\n")
    site.wait_yard(lambda yard: yard.settings == {"idle_fps": 4.0})
    edits(editor)
    assert site.vigil("camera", "edit", "yard").output == "yard stays as it was\n"


def test_a_camera_that_is_excluded_is_left_alone(site: Site) -> None:
    site.add_yard()
    assert site.vigil("camera", "exclude", "yard").exit_code == 0
    site.wait_yard(lambda yard: yard.excluded)
    assert json.loads(site.vigil("camera", "show", "yard", "--json").stdout)["state"] == "excluded"
    assert site.vigil("camera", "exclude", "yard", "--undo").exit_code == 0
    site.wait_yard(lambda yard: not yard.excluded)


def test_what_is_exported_as_a_site_file_is_one(site: Site, tmp_path: Path) -> None:
    typed = "rtsp://admin:s3cr%40t@10.0.0.7/s1\n"
    site.vigil("camera", "add", "yard", "--node", "porch", "--set", "mode=off", typed=typed, away=True)
    everything = site.vigil("registry", "export").stdout
    assert yaml.safe_load(everything)["cameras"]["yard"]["node"] == "porch"
    assert "s3cr" not in everything
    assert json.loads(site.vigil("registry", "export", "--format", "json").stdout) == yaml.safe_load(everything)
    out = tmp_path / "porch.yaml"
    site.vigil("registry", "export", "--site-file", "--with-logins", "--out", str(out))
    assert (out.stat().st_mode & 0o777) == 0o600
    camera = load_settings(out).cameras["yard"]
    assert (camera.source, camera.mode) == ("rtsp://admin:s3cr%40t@10.0.0.7/s1", "off")
    assert "--with-logins needs --out" in site.vigil("registry", "export", "--with-logins").output


def test_a_login_on_the_command_line_is_refused_and_not_repeated(site: Site) -> None:
    done = site.vigil("camera", "add", "yard", "rtsp://admin:s3cret@10.0.0.7/s1")
    assert done.exit_code == 2
    assert "`vigil camera add` asks for a source" in done.output
    assert "s3cret" not in done.output


def test_on_a_secure_bus_the_machine_of_the_fleet_needs_no_other_certificate(tmp_path: Path) -> None:
    secure = SecureSite(tmp_path)
    identity = secure.node("hub", "fleet")
    file = tmp_path / "site.yaml"
    file.write_text(
        f"site: home\nnode: hub\nfleet: {{registry: {tmp_path}/registry}}\nbus: {{identity: {identity.path}}}\n"
    )
    with SecureBroker(secure, "mosquitto") as broker:
        flags = ["--config", str(file), "--bus", broker.url, "--state", str(tmp_path / "hub-state")]
        added = CliRunner().invoke(cli, [*flags, "camera", "add", "yard", "rtsp://10.0.0.7/s1", "--wait", "10ms"])
        assert "yard does not run yet: hub has said nothing of it" in added.output
        row = json.loads(CliRunner().invoke(cli, [*flags, "camera", "list", "--json"]).stdout)
        assert (row["camera"], row["state"], row["published"]) == ("yard", "new", True)
