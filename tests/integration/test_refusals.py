"""What a secure broker lets nobody do; on a real Mosquitto and on the embedded broker, judged by other programs."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from broker.identity import IdentityFolder
from broker.topics import (
    CAMERA_DETECTIONS,
    CAMERA_ESCALATION,
    CAMERA_FRAME,
    CAMERA_MOTION,
    CAMERA_SET,
    CAMERA_STATE,
    NODE_COMMAND,
    NODE_STATUS,
    RECEIPT,
    everything,
)
from tests.support.mosquitto import mosquitto_program
from tests.support.server import ServerProcess, start_on_free_port
from tests.support.site import SecureBroker, Site, Subscriber, days_ago, publish, tls_options
from tests.support.waiting import wait_until

ALL = everything("home")
PORCH_MOTION = str(CAMERA_MOTION.at("home", camera="porch"))
YARD_MOTION = str(CAMERA_MOTION.at("home", camera="yard"))
YARD_STATE = str(CAMERA_STATE.at("home", camera="yard"))


@dataclass(frozen=True)
class Mesh:
    site: Site
    broker: SecureBroker
    folder: Path

    def identity(self, name: str) -> IdentityFolder:
        return IdentityFolder(self.site.folder / name)

    def options(self, user: str) -> list[str]:
        """Of a process ``porch.edge`` or a person ``alice``, at the port that is theirs."""
        name, _, role = user.partition(".")
        port = self.broker.port if role else self.broker.people_port
        return tls_options(port, self.identity(name), role or "person")

    def watching(self, user: str, topic_filter: str = ALL, *more: str) -> Subscriber:
        return Subscriber(self.options(user), topic_filter, self.folder / f"{user}.sub", *more)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = Site(tmp_path_factory.mktemp("site"))
    made.node("porch", "edge", cameras=["porch"])
    made.node("yard", "edge", cameras=["yard"])
    made.node("hub", "detector", "bridge", "up")
    made.person("alice", "dashboard")
    made.person("victor", "viewer")
    return made


@pytest.fixture(scope="module", params=["mosquitto", "embedded"])
def broker(request: pytest.FixtureRequest, site: Site) -> Iterator[SecureBroker]:
    if mosquitto_program() is None:
        pytest.skip("no mosquitto: sudo apt-get install mosquitto mosquitto-clients")
    with SecureBroker(site, request.param) as running:
        wait_until(lambda: _listens(running.port) and _listens(running.people_port), what="two ports")
        yield running


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def mesh(site: Site, broker: SecureBroker, tmp_path: Path) -> Mesh:
    return Mesh(site, broker, tmp_path)


# --- what a member may write ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Write:
    """Something that `allowed` tells `reader`, and `refused` may not."""

    what: str
    refused: str
    topic: str
    allowed: str
    reader: str = "hub.up"


YARD_DETECTIONS = str(CAMERA_DETECTIONS.at("home", camera="yard"))
YARD_ALARM = str(CAMERA_ESCALATION.at("home", camera="yard", origin="hub.detector"))
YARD_OWN_ALARM = str(CAMERA_ESCALATION.at("home", camera="yard", origin="yard.edge"))
YARD_MODE = str(CAMERA_SET.at("home", camera="yard", property="mode"))
YARD_STATUS = str(NODE_STATUS.at("home", node="yard", role="edge"))
PORCH_RECEIPTS = str(RECEIPT.at("home", origin="porch.edge"))
WRITES = [
    Write("a node's certificate on another node's topics", "porch.edge", YARD_MOTION, "yard.edge"),
    Write("a dashboard publishing detections", "alice", YARD_DETECTIONS, "hub.detector"),
    Write("a dashboard raising an alarm", "alice", YARD_ALARM, "hub.detector"),
    Write("an alarm of another node's camera", "porch.edge", YARD_OWN_ALARM, "yard.edge"),
    Write("a viewer sending a command", "victor", YARD_MODE, "alice", "yard.edge"),
    Write("a detector sending a command", "hub.detector", YARD_MODE, "alice", "yard.edge"),
    Write("another process's status", "porch.edge", YARD_STATUS, "yard.edge"),
    Write("a receipt that no bridge sent", "hub.detector", PORCH_RECEIPTS, "hub.bridge", "porch.edge"),
]


@pytest.mark.parametrize("case", WRITES, ids=[case.what for case in WRITES])
def test_a_member_writes_only_what_is_its_own(mesh: Mesh, case: Write) -> None:
    with mesh.watching(case.reader, case.topic) as seen:
        publish(mesh.options(case.refused), case.topic, "forged")
        publish(mesh.options(case.refused), case.topic, "forged and kept", "-r")
        publish(mesh.options(case.allowed), case.topic, "true")
        assert seen.wait_for(f"{case.topic} true") == [f"{case.topic} true"]
    with mesh.watching(case.reader, case.topic) as later:
        publish(mesh.options(case.allowed), case.topic, "still true")
        assert later.wait_for(f"{case.topic} still true") == [f"{case.topic} still true"]


def test_mqtt_5_says_that_it_was_refused(mesh: Mesh) -> None:
    told = publish(mesh.options("porch.edge"), YARD_MOTION, "forged", "-V", "5")
    if mesh.broker.engine == "embedded":
        assert "Unsupported Protocol Version" in told.stderr  # and 3.1.1 has no word for it
        return
    assert "Not authorized" in told.stderr
    assert "Not authorized" not in publish(mesh.options("yard.edge"), YARD_MOTION, "true", "-V", "5").stderr


def test_a_will_is_no_way_around(mesh: Mesh) -> None:
    with mesh.watching("hub.up") as seen:
        for user in ("porch.edge", "yard.edge"):
            will = ["--will-topic", YARD_STATE, "--will-payload", f"left by {user}", "--will-retain"]
            with mesh.watching(user, ALL, *will):
                pass  # killed without a word
        seen.wait_for(f"{YARD_STATE} left by yard.edge")
        assert f"{YARD_STATE} left by porch.edge" not in seen.got
    publish(mesh.options("yard.edge"), YARD_STATE, "", "-r")


# --- what a member may read -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Read:
    """Something that `writer` tells `reader`, and `curious` may not know."""

    what: str
    curious: str
    topic: str
    writer: str
    reader: str


YARD_FRAME = str(CAMERA_FRAME.at("home", camera="yard"))
YARD_ORDERS = str(NODE_COMMAND.at("home", node="yard", role="edge"))
BRIDGE_ORDERS = str(NODE_COMMAND.at("home", node="hub", role="bridge"))
READS = [
    Read("another node's orders", "porch.edge", YARD_ORDERS, "alice", "yard.edge"),
    Read("orders of another process of the node", "hub.detector", BRIDGE_ORDERS, "alice", "hub.bridge"),
    Read("another camera's frames", "porch.edge", YARD_FRAME, "yard.edge", "victor"),
    Read("another camera's alarms", "porch.edge", YARD_ALARM, "hub.detector", "yard.edge"),
    Read("another camera's settings", "porch.edge", YARD_MODE, "alice", "yard.edge"),
    Read("another's receipts", "hub.detector", PORCH_RECEIPTS, "hub.bridge", "porch.edge"),
]


@pytest.mark.parametrize("case", READS, ids=[case.what for case in READS])
def test_a_member_reads_only_what_is_for_it(mesh: Mesh, case: Read) -> None:
    node, _, role = case.curious.partition(".")
    own = str(NODE_COMMAND.at("home", node=node, role=role))
    with mesh.watching(case.curious, "#") as spy, mesh.watching(case.reader, case.topic) as due:
        publish(mesh.options(case.writer), case.topic, "not for all")
        due.wait_for(f"{case.topic} not for all")
        publish(mesh.options("alice"), own, "for the curious one")
        assert spy.wait_for(f"{own} for the curious one") == [f"{own} for the curious one"]


def test_what_is_kept_reaches_nobody_who_may_not_read_it(mesh: Mesh) -> None:
    publish(mesh.options("yard.edge"), YARD_STATE, "secret", "-r")
    own = str(NODE_COMMAND.at("home", node="porch", role="edge"))
    with mesh.watching("hub.up", YARD_STATE) as allowed, mesh.watching("porch.edge", "#") as spy:
        allowed.wait_for(f"{YARD_STATE} secret")
        publish(mesh.options("alice"), own, "now")
        assert spy.wait_for(f"{own} now") == [f"{own} now"]
    with mesh.watching("porch.edge", YARD_STATE) as spy:
        publish(mesh.options("yard.edge"), YARD_STATE, "", "-r")
        assert spy.got == []


# --- who gets in ------------------------------------------------------------------------------------------------


def refused_at(port: int, identity: IdentityFolder, role: str, *more: str) -> str:
    """What `mosquitto_pub` says when it is not let in."""
    ended = publish(tls_options(port, identity, role), PORCH_MOTION, "let me in", *more)
    assert ended.returncode != 0
    return ended.stderr


def test_members_get_in(mesh: Mesh) -> None:
    for user in ("porch.edge", "hub.bridge", "alice", "victor"):
        assert publish(mesh.options(user), "nowhere", "").returncode == 0


def test_a_person_at_the_processes_port_and_the_reverse(mesh: Mesh) -> None:
    assert refused_at(mesh.broker.port, mesh.identity("alice"), "person")
    assert refused_at(mesh.broker.people_port, mesh.identity("porch"), "edge")


def test_certificates_that_do_not_hold(mesh: Mesh) -> None:
    site, port = mesh.site, mesh.broker.port
    held = site.forged("porch.edge", "edge", issued=days_ago(10), days=11)
    assert publish(tls_options(port, held, "edge"), PORCH_MOTION, "").returncode == 0
    assert refused_at(port, site.forged("porch.edge", "edge", issued=days_ago(10), days=9), "edge")
    assert refused_at(port, site.forged("porch.edge", "edge", issued=days_ago(-3), days=9), "edge")
    assert refused_at(port, site.foreign("porch.edge", "edge"), "edge")


def test_without_a_certificate(mesh: Mesh) -> None:
    ca = str(mesh.identity("porch").ca)
    for port in (mesh.broker.port, mesh.broker.people_port):
        ended = publish(["-h", "127.0.0.1", "-p", str(port), "--cafile", ca], PORCH_MOTION, "let me in")
        assert ended.returncode != 0


def test_a_client_in_plain_text(mesh: Mesh) -> None:
    for port in (mesh.broker.port, mesh.broker.people_port):
        assert publish(["-h", "127.0.0.1", "-p", str(port)], PORCH_MOTION, "let me in").returncode != 0


def shakes_hands(port: int, identity: IdentityFolder, role: str, version: str) -> bool:
    """Whether `openssl s_client` comes through the handshake with this version only."""
    own = identity.credentials(role)
    assert own is not None
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", version, "-CAfile", str(identity.ca)]
    command += ["-cert", str(own.certificate), "-key", str(own.key)]
    # Security level 0: OpenSSL's own client must not be the one who refuses.
    command += ["-cipher", "DEFAULT:@SECLEVEL=0"]
    ended = subprocess.run(command, input="", capture_output=True, text=True, timeout=20, check=False)
    return "Cipher is (NONE)" not in ended.stdout


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_old_versions_of_tls(mesh: Mesh, version: str) -> None:
    for port, name, role in ((mesh.broker.port, "porch", "edge"), (mesh.broker.people_port, "alice", "person")):
        assert not shakes_hands(port, mesh.identity(name), role, version)
        assert shakes_hands(port, mesh.identity(name), role, "-tls1_2")


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_a_server_that_takes_old_versions_would_be_noticed(mesh: Mesh, version: str) -> None:
    ca = mesh.site.authority.folder

    def make(port: int) -> ServerProcess:
        command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", str(ca.server)]
        command += ["-key", str(ca.server_key), "-cipher", "DEFAULT:@SECLEVEL=0", "-www", version]
        return ServerProcess(command, log=mesh.folder / "s_server.log", ready="ACCEPT", start_timeout_s=20)

    server, port = start_on_free_port(make)
    try:
        assert shakes_hands(port, mesh.identity("porch"), "edge", version)
    finally:
        server.kill()


def test_nobody_takes_a_process_s_place_by_its_client_id(mesh: Mesh) -> None:
    with mesh.watching("yard.edge") as victim:
        for client_id in ("yard.edge", "vigil-yard.edge", "vigil-home-yard-edge"):
            publish(mesh.options("porch.edge"), PORCH_MOTION, "", "-i", client_id)
            publish(mesh.options("alice"), PORCH_MOTION, "", "-i", client_id)
        publish(mesh.options("alice"), YARD_ORDERS, "still there?")
        victim.wait_for(f"{YARD_ORDERS} still there?")
        assert victim.connections == 1
        publish(mesh.options("yard.edge"), YARD_MOTION, "")
        wait_until(lambda: victim.attempts > 1 or victim.has_ended, what="the end of the first of that name")


def test_a_node_that_is_revoked_is_thrown_out_and_stays_out(mesh: Mesh) -> None:
    gone = mesh.site.node("gone", "edge", cameras=["gone"])
    options = tls_options(mesh.broker.port, gone, "edge")
    wait_for_right(mesh, options, str(CAMERA_MOTION.at("home", camera="gone")))
    with Subscriber(options, "#", mesh.folder / "gone.sub") as thrown_out:
        mesh.site.authority.revoke("gone")
        wait_until(lambda: thrown_out.attempts > 1 or thrown_out.has_ended, what="the end of the connection")
        assert publish(options, PORCH_MOTION, "").returncode != 0
        assert thrown_out.connections == 1
    wait_for_right(mesh, mesh.options("porch.edge"), PORCH_MOTION)


def wait_for_right(mesh: Mesh, options: Sequence[str], topic: str) -> None:
    """Until what this user publishes there arrives."""

    def arrives() -> bool:
        with mesh.watching("hub.up", topic) as seen:
            end = str(CAMERA_MOTION.at("home", camera="yard"))
            with mesh.watching("hub.bridge", end) as done:
                publish(options, topic, "mine")
                publish(mesh.options("yard.edge"), end, "done")
                if not done.has_ended:
                    wait_until(lambda: done.got or done.has_ended or done.attempts > 1, what="the end")
            return seen.got == [f"{topic} mine"]

    wait_until(arrives, what="a right")


HELLO = b"\x10\x14\x00\x04MQTT\x04\x02\x00\x0a\x00\x08vigil-me\xe0\x00"
WELCOME = b"\x20\x02\x00\x00"
"""CONNECT with DISCONNECT, and the CONNACK of somebody who is let in. Source: MQTT 3.1.1 sections 3.1, 3.2, 3.14."""


def test_a_resumed_session_of_tls_does_not_bring_a_revoked_node_back(mesh: Mesh) -> None:
    left = mesh.site.node("left", "edge", cameras=["left"])
    ticket = mesh.folder / "ticket"
    own = left.credentials("edge")
    assert own is not None
    command = ["openssl", "s_client", "-quiet", "-tls1_2", "-connect", f"127.0.0.1:{mesh.broker.port}"]
    command += ["-CAfile", str(left.ca), "-cert", str(own.certificate), "-key", str(own.key)]

    def answer(*more: str) -> bytes:
        return subprocess.run([*command, *more], input=HELLO, capture_output=True, timeout=20, check=False).stdout

    wait_for_right(mesh, tls_options(mesh.broker.port, left, "edge"), str(CAMERA_MOTION.at("home", camera="left")))
    assert answer("-sess_out", str(ticket)) == WELCOME
    assert answer("-sess_in", str(ticket)) == WELCOME
    mesh.site.authority.revoke("left")
    wait_until(lambda: answer() != WELCOME, what="a refusal")
    assert answer("-sess_in", str(ticket)) != WELCOME
    wait_for_right(mesh, mesh.options("porch.edge"), PORCH_MOTION)


def test_a_camera_that_moves_away_takes_its_rights_along(mesh: Mesh) -> None:
    mover = mesh.site.node("mover", "edge", cameras=["attic", "cellar"])
    options = tls_options(mesh.broker.port, mover, "edge")
    attic, cellar = (str(CAMERA_MOTION.at("home", camera=camera)) for camera in ("attic", "cellar"))
    wait_for_right(mesh, options, attic)
    mesh.site.authority.grant("mover", without_cameras=["attic"])

    def is_refused() -> bool:
        with mesh.watching("hub.up", CAMERA_MOTION.topic_filter("home")) as seen:
            publish(options, attic, "moved")
            publish(options, cellar, "moved")
            wait_until(lambda: f"{cellar} moved" in seen.got or seen.attempts > 1 or seen.has_ended, what="an answer")
            return seen.got == [f"{cellar} moved"]

    wait_until(is_refused, what="the end of a right")
