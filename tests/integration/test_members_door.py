"""What members fetch at the authority's door, over real HTTPS: their own logins, and versions of Vigil."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from broker.authority import Authority
from broker.certs import make_key, make_request
from broker.identity import Credentials, IdentityFolder
from broker.members import CaFolder, Kind
from config.errors import ConfigError, PermanentError
from config.settings import BrokerSettings, FleetSettings, Settings
from fleet.enrolment.client import AuthorityAddress, fetch, fetch_file
from fleet.enrolment.server import EnrolmentServer
from fleet.enrolment.shelf import Shelf
from fleet.enrolment.wire import BUNDLES_PATH, LOGINS_PATH
from fleet.nodes.logins import fetch_logins

HOST = "127.0.0.1"
CAMERAS = {
    "yard": "node: porch\n",
    "hall": "node: gate\n",
    "lawn": "pool: garden\n",
    "cellar": "",
}


class Hub:
    """The authority's machine, with a registry and a folder of bundles."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        registry, self.bundles = folder / "registry", folder / "state" / "bundles"
        settings = Settings(state_dir=folder / "state", fleet=FleetSettings(registry=registry))
        for below in ("cameras", "nodes"):
            (registry / below).mkdir(parents=True)
        self.bundles.mkdir(parents=True)
        for camera, who in CAMERAS.items():
            (registry / "cameras" / f"{camera}.yaml").write_text(f"source: rtsp://10.0.0.7/{camera}\n{who}")
        (registry / "nodes" / "porch.yaml").write_text("pools: [garden]\n")
        logins = {camera: {"username": "admin", "password": f"secret-{camera}"} for camera in CAMERAS}
        (registry / "logins.yaml").write_text(json.dumps(logins))
        self.authority = Authority.create(CaFolder(folder / "state" / "ca"), "home", [HOST])
        shelf = Shelf.of(settings)
        self.server = EnrolmentServer(self.authority, BrokerSettings(), host=HOST, port=0, shelf=shelf)
        self.server.start()
        self.address = AuthorityAddress(HOST, self.server.port)

    def member(self, name: str, kind: Kind = "node", *roles: str, cameras: tuple[str, ...] = ()) -> IdentityFolder:
        key, identity = make_key(), IdentityFolder(self.folder / name)
        identity.install(self.authority.admit(name, kind, roles or ["edge"], cameras, make_request(key)), key)
        identity.authority.write_text(str(self.address))
        return identity


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    opened = Hub(tmp_path)
    yield opened
    opened.server.close()


def shown(identity: IdentityFolder, role: str = "edge") -> tuple[bytes, Credentials]:
    credentials = identity.credentials(role)
    assert credentials is not None
    return identity.ca.read_bytes(), credentials


def test_a_node_gets_the_logins_of_its_own_cameras_and_of_its_pools(hub: Hub) -> None:
    logins = fetch_logins(hub.member("porch", cameras=("cellar", "hall")))
    passwords = {camera: login.password.get_secret_value() for camera, login in logins.items()}
    # The hall was granted by hand, and is another's by the registry; of the cellar the registry says nothing.
    assert passwords == {camera: f"secret-{camera}" for camera in ("cellar", "lawn", "yard")}
    assert set(fetch_logins(hub.member("gate"))) == {"hall"}


def test_a_login_follows_its_camera(hub: Hub) -> None:
    porch, gate = hub.member("porch"), hub.member("gate")
    assert "yard" in fetch_logins(porch)
    (hub.folder / "registry" / "cameras" / "yard.yaml").write_text("source: rtsp://10.0.0.7/yard\nnode: gate\n")
    assert ("yard" in fetch_logins(porch), "yard" in fetch_logins(gate)) == (False, True)


def test_nobody_else_gets_any(hub: Hub) -> None:
    alice = hub.member("alice", "person", "dashboard")
    for path in (LOGINS_PATH, f"{BUNDLES_PATH}vigil-1.0.tar"):
        with pytest.raises(PermanentError, match="refuses"):
            fetch(hub.address, *shown(alice, "person"), path)
    with pytest.raises(ConfigError, match="vigil join"):
        fetch_logins(alice)
    porch = hub.member("porch")
    hub.authority.revoke("porch")
    with pytest.raises(PermanentError, match="revoked"):
        fetch_logins(porch)


def test_a_version_is_fetched_and_goes_on_where_it_broke_off(hub: Hub) -> None:
    content = bytes(range(256)) * 4096
    (hub.bundles / "vigil-1.0.tar").write_bytes(content)
    porch = shown(hub.member("porch"))
    whole, rest = BytesIO(), BytesIO(content[:300_000])
    told: list[tuple[int, int]] = []
    path = f"{BUNDLES_PATH}vigil-1.0.tar"
    assert fetch_file(hub.address, *porch, path, whole, told=lambda *one: told.append(one)) == len(content)
    assert whole.getvalue() == content
    assert told[-1] == (len(content), len(content))
    fetch_file(hub.address, *porch, path, rest)
    assert rest.getvalue() == content
    assert fetch_file(hub.address, *porch, path, rest) == len(content)  # nothing is left
    assert rest.getvalue() == content


def test_nothing_but_a_file_of_the_folder_is_served(hub: Hub) -> None:
    porch = shown(hub.member("porch"))
    (hub.bundles / "link").symlink_to(hub.authority.folder.ca_key)
    (hub.bundles / "folder").mkdir()
    (hub.bundles / ".hidden").write_text("x")
    for name in ("../ca/ca.key", "..%2fca%2fca.key", "link", "folder", ".hidden", "none.tar", ""):
        with pytest.raises(PermanentError, match="no such thing"):
            fetch_file(hub.address, *porch, f"{BUNDLES_PATH}{name}", BytesIO())
    (hub.bundles / "vigil-1.0.tar").write_bytes(b"new")  # shorter than what is there of it already
    with pytest.raises(PermanentError, match="no such thing"):
        fetch_file(hub.address, *porch, f"{BUNDLES_PATH}vigil-1.0.tar", BytesIO(b"longer than that"))


def test_a_machine_that_is_node_and_person_shows_the_right_key_for_each(hub: Hub) -> None:
    identity = hub.member("porch")
    key = make_key()
    identity.install(hub.authority.admit("alice", "person", ["viewer"], [], make_request(key)), key)
    assert identity.credentials("person") == Credentials(identity.certificate("person"), identity.key("person"))
    assert identity.credentials("edge") == Credentials(identity.certificate("edge"), identity.key("node"))
