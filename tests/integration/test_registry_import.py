"""`vigil registry import`, from the file of another system to the documents on a real broker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from broker import Bus, Delivery, listen
from broker.messages import CameraDocument
from broker.topics import REGISTRY_CAMERA
from config.settings import BusSettings, Settings
from console.cli import cli
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import wait_until

FRIGATE = Path(__file__).parents[1] / "unit" / "fleet" / "frigate.yml"


class Site:
    """A registry, and what the bus hears of it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.registry = folder / "registry"
        self.file = folder / "vigil.yaml"
        content = {"bus": {"url": url}, "state_dir": str(folder / "state"), "fleet": {"registry": str(self.registry)}}
        self.file.write_text(yaml.safe_dump(content))
        self.documents: dict[str, CameraDocument] = {}
        self.bus: Bus = listen(Settings(node="porch", bus=BusSettings(url=url)), "edge")
        self.bus.subscribe(REGISTRY_CAMERA, self._on_delivery)
        self.bus.start()
        assert self.bus.wait_connected(10)

    def _on_delivery(self, delivery: Delivery) -> None:
        if isinstance(delivery.content, CameraDocument):
            self.documents[delivery.content.camera] = delivery.content

    def import_(self, file: Path, *options: str) -> Result:
        return CliRunner().invoke(cli, ["--config", str(self.file), "registry", "import", str(file), *options])


@pytest.fixture
def site(tmp_path: Path, mosquitto: Mosquitto) -> Iterator[Site]:
    site = Site(tmp_path, mosquitto.url)
    yield site
    site.bus.close(0)


def test_a_frigate_configuration_becomes_documents_on_the_bus(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRIGATE_RTSP_USER", "eye")
    monkeypatch.setenv("FRIGATE_RTSP_PASSWORD", "pass-of-it")
    looked = site.import_(FRIGATE, "--dry-run", "--json")
    assert looked.exit_code == 0, looked.output
    assert not site.registry.exists()
    assert list(json.loads(looked.output)["cameras"]) == ["drive", "Front-Door"]
    done = site.import_(FRIGATE, "--pool", "outdoors")
    assert done.exit_code == 0, done.output
    assert "birdseye" in done.output
    assert "2 cameras written" in done.output
    wait_until(lambda: len(site.documents) == 2, what="both documents")
    drive, door = site.documents["drive"], site.documents["Front-Door"]
    assert (drive.pool, drive.source, drive.settings["sub_source"]) == (
        "outdoors",
        "rtsp://10.0.0.20:554/main",
        "rtsp://10.0.0.20:554/sub",
    )
    assert drive.settings["zones"]["driveway"]["labels"] == ["person", "car"]
    assert drive.settings["rules"]["presence"]["cooldown_s"] == 40
    assert (door.excluded, door.name) == (True, "The front door")
    written = {path.name: path.read_text() for path in site.registry.rglob("*.yaml")}
    assert [name for name, text in written.items() if "pass-of-it" in text] == ["logins.yaml"]
    assert "pass-of-it" not in done.output + looked.output


def test_what_is_there_is_not_written_over(site: Site, tmp_path: Path) -> None:
    cameras = tmp_path / "cameras.json"
    cameras.write_text(json.dumps([{"id": "hall", "name": "Hall", "rtspUrl": "rtsp://10.0.0.4/1"}]))
    assert site.import_(cameras, "--node", "porch").exit_code == 0
    cameras.write_text(json.dumps([{"id": "hall", "rtspUrl": "rtsp://10.0.0.5/1"}, {"id": "b", "url": "rtsp://h/1"}]))
    second = site.import_(cameras)
    assert "--replace" in second.output
    wait_until(lambda: "b" in site.documents, what="the other camera")
    assert site.documents["hall"].source == "rtsp://10.0.0.4/1"
    assert site.import_(cameras, "--replace", "--camera", "hall").exit_code == 0
    wait_until(lambda: site.documents["hall"].source == "rtsp://10.0.0.5/1", what="the new address")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.yml", "cameras: [", "a.yml:1"),
        ("a.json", "[1,", "a.json:1"),
        ("a.json", "{}", "has no cameras"),
        ("a.json", '[{"id": "a", "rtspUrl": "nowhere://x", "mac": "1"}]', "cameras.a.device.mac"),
    ],
)
def test_what_cannot_be_taken_says_where_and_why(site: Site, tmp_path: Path, name: str, text: str, words: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    done = site.import_(file)
    assert done.exit_code != 0
    assert words in f"{done.output}{done.exception}"
