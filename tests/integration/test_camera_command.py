"""`vigil camera test`: what comes from a camera, or why nothing does."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from pydantic import SecretStr

from broker.messages import CameraDocument
from broker.session import listen
from broker.topics import REGISTRY_CAMERA
from config import ConfigError, PermanentError, TransientError
from config.logins import logins_file, write_logins
from config.registry import Login
from config.settings import BusSettings, Settings
from edge.camera_cli import test as command
from tests.support.camera import MockCamera, small_film
from tests.support.mosquitto import Mosquitto
from tests.support.ports import free_port

pytest.importorskip("edge.gst.stream", reason="no GStreamer: see deploy/packages.txt")


def vigil(settings: Settings, *arguments: str, given: str = "") -> Result:
    def load(flags: Mapping[str, Any]) -> Settings:
        return settings.model_copy(update=dict(flags))

    return CliRunner().invoke(command, list(arguments), obj=load, input=given)


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockCamera]:
    """A camera that asks for a login."""
    folder = tmp_path_factory.mktemp("camera")
    with MockCamera(folder, small_film(folder), login=("admin", "pa@ss")) as camera:
        yield camera


def test_what_comes_is_told_with_its_first_picture(tmp_path: Path, locked: MockCamera) -> None:
    picture = tmp_path / "yard.jpg"
    asked = ["-", "--json", "--picture", str(picture), "--height", "90"]
    seen = vigil(Settings(), *asked, given=f"{locked.rtsp_url}\n")
    assert seen.exit_code == 0, seen.output
    found = json.loads(seen.stdout)
    assert (found["ok"], found["codec"], found["width"], found["height"]) == (True, "H.264", 320, 180)
    assert found["fps"] == pytest.approx(10, abs=3)
    assert found["picture"] == str(picture)
    assert "pa" not in found["source"].split("@")[0], "the login is nobody's business"
    assert Image.open(io.BytesIO(picture.read_bytes())).size == (160, 90)


def test_a_camera_of_the_registry_is_found_with_its_login(
    tmp_path: Path, mosquitto: Mosquitto, locked: MockCamera
) -> None:
    settings = Settings(state_dir=tmp_path, bus=BusSettings(url=mosquitto.url))
    plain = "rtsp://" + locked.rtsp_url.rpartition("@")[2]
    bus = listen(settings, "fleet")
    bus.start()
    assert bus.wait_connected(30)
    bus.publish(REGISTRY_CAMERA.at("home", camera="yard"), CameraDocument(camera="yard", source=plain, revision=1))
    refused = vigil(settings, "yard", "--wait", "20s")
    assert isinstance(refused.exception, TransientError)
    assert "refuses user and password" in str(refused.exception)
    write_logins(logins_file(settings), {"yard": Login(username="admin", password=SecretStr("pa@ss"))})
    seen = vigil(settings, "yard", "--wait", "20s")
    assert seen.exit_code == 0, seen.output
    assert "H.264 320x180" in seen.output
    bus.close(0)


@pytest.mark.parametrize(
    ("target", "kind", "says"),
    [
        ("rtsp://127.0.0.1:{port}/a", TransientError, "has nothing at port"),
        ("file:/none/a.mp4", PermanentError, "there is no file /none/a.mp4"),
        ("ftp://h/", ConfigError, "sources of the kind 'ftp'"),
        ("nobody", TransientError, "the site file has no camera 'nobody', and there is no broker"),
    ],
)
def test_why_nothing_comes_is_the_exit_status_and_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, kind: type[Exception], says: str
) -> None:
    monkeypatch.setattr("edge.camera_cli._ASK_S", 0.2)
    port = free_port()
    settings = Settings(state_dir=tmp_path, bus=BusSettings(url=f"mqtt://127.0.0.1:{port}", connect_timeout_s=0.2))
    failed = vigil(settings, target.format(port=port), "--json")
    assert type(failed.exception) is kind
    found = json.loads(failed.stdout)
    assert found["ok"] is False
    assert says in found["error"]


def test_a_camera_of_the_site_file_is_known_by_its_name_and_so_is_its_smaller_stream(tmp_path: Path) -> None:
    cameras = {"yard": {"source": "synthetic:street", "sub_source": "synthetic:street?width=160&height=120&pace=max"}}
    settings = Settings.model_validate({"state_dir": tmp_path, "cameras": cameras})
    seen = vigil(settings, "yard", "--sub", "--json")
    assert json.loads(seen.stdout)["width"] == 160
    assert vigil(settings, "synthetic:room", "--sub").exit_code == 2


def test_of_a_private_camera_no_picture_is_shown(tmp_path: Path) -> None:
    cameras = {"yard": {"source": "synthetic:street?pace=max&width=160&height=120", "privacy": {"enabled": True}}}
    settings = Settings.model_validate({"state_dir": tmp_path, "cameras": cameras})
    assert vigil(settings, "yard").exit_code == 0
    refused = vigil(settings, "yard", "--picture", str(tmp_path / "yard.jpg"))
    assert "privacy is on" in str(refused.exception)
    assert not (tmp_path / "yard.jpg").exists()
