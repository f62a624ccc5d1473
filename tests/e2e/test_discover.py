"""`vigil discover` and `vigil fleet` in a network of cameras that is the test's own, with an independent responder."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from broker import Bus, Delivery
from broker.messages import CameraDocument, CameraState
from broker.topics import CAMERA_STATE, REGISTRY_CAMERA
from config.registry import CameraEntry, Login
from config.settings import Settings
from fleet.discovery.interfaces import interface_addresses
from fleet.discovery.mdns import announce
from fleet.registry.folder import RegistryFolder
from tests.e2e.vigil_process import Vigil, run_vigil
from tests.support.network import CameraNetwork, camera_network
from tests.support.onvif import CameraPlan, OnvifSite
from tests.support.waiting import wait_until

CAMERAS = 10
PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def network() -> Iterator[CameraNetwork]:
    with camera_network(CAMERAS + 1) as made:
        yield made


@pytest.fixture
def environment(settings: Settings, tmp_path: Path, network: CameraNetwork) -> Mapping[str, str]:
    return {
        "VIGIL_CAMERA_PASSWORD": PASSWORD,
        "VIGIL_FLEET__REGISTRY": str(tmp_path / "registry"),
        "VIGIL_FLEET__FIND_INTERFACES": json.dumps([network.interface]),
        "VIGIL_FLEET__FIND_AFTER_S": "0.1",
        "VIGIL_FLEET__DOOR_PORT": "0",
        "VIGIL_STATE_DIR": str(tmp_path / "state"),
        "VIGIL_BUS__URL": settings.bus.url,
    }


def plan(host: str, number: int) -> CameraPlan:
    return CameraPlan(
        host,
        name=f"Gate {number}",
        mac=f"02:00:00:00:00:{number:02x}",
        serial=f"SN{number}",
        endpoint=uuid.UUID(int=number + 1).urn,
    )


def cameras_of(folder: Path) -> Mapping[str, CameraEntry]:
    return {name: held.entry for name, held in RegistryFolder(folder).read().cameras.items()}


def test_ten_cameras_are_found_and_added_in_one_command(
    network: CameraNetwork, environment: Mapping[str, str], tmp_path: Path
) -> None:
    registry = tmp_path / "registry"
    plans = [plan(host, number) for number, host in enumerate(network.hosts[:CAMERAS])]
    asked = ["discover", "--interface", network.interface, "--username", "admin", "--wait", "1s"]
    page = tmp_path / "cameras.html"
    said: list[str] = []

    def find() -> bool:
        # Once does it; on a starved machine an answer may come after the command has stopped listening.
        adding = ("--add", "ALL", "--pool", "house", "--html", str(page))
        status, output, errors = run_vigil(*asked, *adding, environment=environment)
        said[:] = [output]
        assert status == 0, errors
        assert PASSWORD not in output + errors
        return len(cameras_of(registry)) == CAMERAS

    waiting = announce("porch", port=1, properties={"id": "3f2a91c0", "claimed": "0"}, interfaces=addresses(network))
    with OnvifSite(tmp_path, plans, enter=network.enter), waiting:
        wait_until(
            lambda: find() and "vigil node adopt 3f2a91c0" in said[0], timeout_s=90, what="ten cameras and a node"
        )
    assert page.read_text().count('src="data:image/jpeg') == CAMERAS
    added = cameras_of(registry)
    assert sorted(added) == [f"gate-{number}" for number in range(CAMERAS)]
    entry = added["gate-3"]
    assert entry.source == f"rtsp://{network.hosts[3]}:8554/main"
    assert entry.sub_source == f"rtsp://{network.hosts[3]}:8554/sub"
    assert (entry.device.mac, entry.device.serial) == ("02:00:00:00:00:03", "SN3")
    assert (entry.pool, entry.name) == ("house", "Gate 3")
    assert RegistryFolder(registry).logins()["gate-3"].password.get_secret_value() == PASSWORD


def addresses(network: CameraNetwork) -> list[str]:
    return interface_addresses([network.interface])


def test_a_camera_that_has_another_address_is_followed(
    network: CameraNetwork, environment: Mapping[str, str], tmp_path: Path, join: Callable[[str], Bus]
) -> None:
    before, other, by_hand, after = *network.hosts[:3], network.hosts[CAMERAS]
    registry = RegistryFolder(tmp_path / "registry")
    known = {"mac": "02:00:00:00:00:07", "onvif": f"http://{before}/onvif/device_service"}
    registry.change_camera("yard", {"source": f"rtsp://{before}:8554/main", "pool": "house", "device": known})
    registry.change_camera("door", {"source": f"rtsp://{by_hand}:8554/main", "pool": "house"})
    for camera in ("yard", "door"):
        registry.set_login(camera, Login(username="admin", password=SecretStr(PASSWORD)))
    sources: list[str] = []

    def on_document(delivery: Delivery) -> None:
        if isinstance(delivery.content, CameraDocument):
            sources.append(delivery.content.source)

    edge = join("edge")
    edge.subscribe(REGISTRY_CAMERA, on_document, camera="yard")
    state = CameraState(camera="yard", state="error", node="node-1", at=datetime.now(UTC), error="no route")
    edge.publish(CAMERA_STATE.at(edge.site, camera="yard"), state)
    moved = replace(plan(after, 7), name="IPC", ahead_s=86_400.0)
    impostor = replace(plan(other, 8), mac="02:00:00:00:00:07", login=("admin", "another"))
    fleet = Vigil("fleet", folder=tmp_path, environment=environment)
    with OnvifSite(tmp_path, [moved, impostor, plan(by_hand, 9)], enter=network.enter), fleet:
        wait_until(lambda: f"rtsp://{after}:8554/main" in sources, timeout_s=90, what="the new address")
        wait_until(
            lambda: cameras_of(tmp_path / "registry")["door"].device.mac == "02:00:00:00:00:09",
            timeout_s=90,
            what="what the camera that was added by hand is",
        )
    entry = cameras_of(tmp_path / "registry")["yard"]
    assert entry.source == f"rtsp://{after}:8554/main"
    assert entry.device.onvif is not None
    assert entry.device.onvif.startswith(f"http://{after}:")
    assert entry.device.endpoint == moved.endpoint
    assert f"rtsp://{other}:8554/main" not in sources
