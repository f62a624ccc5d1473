"""Nodes as the site's people see them, on real Mosquittos: greeted, accepted, told what to do, renamed, removed."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

import msgspec
import pytest
import yaml
from msgspec.structs import replace

from broker import Bus, Presence, connect
from broker.authority import Authority
from broker.identity import IdentityFolder
from broker.members import CaFolder
from broker.messages import NodeProblem, NodeReport, RegistryIndex, RoleReport
from broker.topics import CAMERA_MOTION_ACTIVE, NODE_REPORT, REGISTRY_INDEX, everything
from config.settings import BusSettings, Settings
from config.sources import load_settings
from fleet.desk import Desk
from fleet.nodes.adoption import wait_adopted
from fleet.nodes.handover import ADOPT_PATH
from fleet.nodes.keeper import NodeKeeper
from fleet.nodes.place import read_place
from fleet.registry.publisher import Publisher
from fleet.registry.writer import take_writer
from fleet.role import Part, run_fleet
from tests.e2e.vigil_process import Vigil
from tests.support.commands import Done, vigil
from tests.support.mosquitto import Mosquitto
from tests.support.population import Population
from tests.support.ports import free_port
from tests.support.site import publish
from tests.support.waiting import wait_until

State = Literal["greeting", "running", "draining", "drained", "offline"]


@contextmanager
def running_fleet(settings: Settings) -> Iterator[None]:
    """What `vigil fleet` runs, on a thread."""

    def parts(bus: Bus) -> list[Part]:
        publisher = Publisher(bus, settings)
        return [publisher, NodeKeeper(bus, settings, publisher)]

    stop = threading.Event()
    thread = threading.Thread(target=run_fleet, args=(settings, "fleet", stop, parts))
    with take_writer(settings) as is_ours:
        assert is_ours
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(30)
        assert not thread.is_alive()


class Machine:
    """An agent as far as the site sees it: it reports, and takes orders."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.orders: list[str] = []
        self._bus = connect(settings, "agent")
        self._presence = Presence(self._bus, settings, "agent", takes_orders=True)
        self._started_at = datetime.now(UTC)
        names = ("ping", "drain", "resume", "restart", "rename", "renew")
        self._desk = Desk(self._bus, {name: self._taking(name) for name in names})
        self.said: NodeReport | None = None

    def __enter__(self) -> Self:
        self._desk.start()
        self._bus.start()
        self._presence.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._presence.close()
        self._bus.close()

    def report(self, state: State, problems: Sequence[NodeProblem] = (), **roles: RoleReport) -> None:
        node = self.settings.node
        now = datetime.now(UTC)
        self.said = NodeReport(
            node=node, at=now, started_at=self._started_at, state=state, roles=roles, problems=tuple(problems)
        )
        self._bus.publish(NODE_REPORT.at(self.settings.site, node=node, role="agent"), self.said)

    def _taking(self, name: str):  # type: ignore[no-untyped-def]  # noqa: ANN202 - an order
        def take(arguments: Mapping[str, str]) -> Mapping[str, str]:
            self.orders.append(f"{name} {dict(arguments)}" if arguments else name)
            if name == "drain" and self.said is not None:
                said = replace(self.said, state="drained", at=datetime.now(UTC))
                self._bus.publish(NODE_REPORT.at(self.settings.site, node=said.node, role="agent"), said)
            return {"restarting": "edge"} if name == "restart" else {}

        return take


def objects(out: str) -> list[dict[str, object]]:
    """What a command has printed, among what other threads of this process log."""
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def publish_index(options: Sequence[str]) -> None:
    """As a fleet has left it: what an index names is all that there is, so that nobody waits for more."""
    index = msgspec.json.encode(RegistryIndex(revision=1, at=datetime.now(UTC))).decode()
    done = publish(options, str(REGISTRY_INDEX.at("home")), index, "--retain")
    assert done.returncode == 0, done.stderr


class Site:
    """A hub with a registry, and a broker that lets everybody in."""

    def __init__(self, folder: Path, broker: Mosquitto) -> None:
        self.folder = folder
        self.url = broker.url
        self.registry = folder / "registry"
        self.file = folder / "hub.yaml"
        own = {"site": "home", "node": "hub", "state_dir": str(folder / "hub"), "bus": {"url": broker.url}}
        self.file.write_text(yaml.safe_dump({**own, "fleet": {"registry": str(self.registry), "door_port": 0}}))
        self.settings = load_settings(self.file)
        publish_index(["-p", str(broker.port)])

    def vigil(self, *command: str) -> Done:
        return vigil("--config", str(self.file), "node", *command)

    def machine(self, node: str) -> Machine:
        return Machine(Settings(site="home", node=node, state_dir=self.folder / node, bus=BusSettings(url=self.url)))

    def row(self, node: str) -> dict[str, object]:
        rows = objects(self.vigil("list", "--json").out)
        return next((row for row in rows if row["node"] == node), {})

    def wait_row(self, node: str, **wanted: object) -> dict[str, object]:
        found: dict[str, object] = {}

        def is_so() -> bool:
            found.clear()
            found.update(self.row(node))
            return {key: found.get(key) for key in wanted} == wanted

        wait_until(is_so, what=f"{node} with {wanted}", timeout_s=60)
        return found

    def camera(self, name: str, said: str) -> Path:
        file = self.registry / "cameras" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(said)
        return file


@pytest.fixture
def site(tmp_path: Path, mosquitto: Mosquitto) -> Site:
    return Site(tmp_path, mosquitto)


def test_a_node_greets_is_accepted_runs_and_is_removed(site: Site, tmp_path: Path) -> None:
    own = ("--site", "home", "--node", "porch", "--bus", site.url, "--state", str(tmp_path / "porch"))
    with running_fleet(site.settings), Vigil(*own, "node", "run", folder=tmp_path):
        site.wait_row("porch", state="greeting")
        accepted = site.vigil("accept", "--all")
        assert "porch is a node of site home: edge 1" in accepted.out, accepted
        camera = site.camera("yard", "source: 'synthetic:'  # over the door\nnode: porch\n")
        row = site.wait_row("porch", state="running", running={"edge": 1})
        assert (row["asked"], row["problems"]) == ({"edge": 1}, [])
        assert objects(site.vigil("ping", "porch", "-c", "2", "--json").out)[0]["count"] == 2
        wait_until(lambda: "edge" in site.vigil("logs", "porch", "-n", "5").out, what="a log")
        removed = site.vigil("remove", "porch", "--yes")
        assert (removed.status, "without a node now: yard" in removed.errors) == (0, True), removed
        assert not (site.registry / "nodes" / "porch.yaml").exists()
        assert camera.read_text() == "source: 'synthetic:'  # over the door\n"
        # A site without certificates cannot shut it out: it greets again, and nobody accepts it.
        site.wait_row("porch", state="greeting", asked={})


def test_what_a_node_cannot_do_and_who_is_away_is_listed(site: Site) -> None:
    (site.registry / "nodes").mkdir(parents=True)
    for node in ("porch", "attic"):
        (site.registry / "nodes" / f"{node}.yaml").write_text("roles: {edge: 1, detector: 2}\n")
    failed = RoleReport(state="failed", error="no model")
    with running_fleet(site.settings):
        with site.machine("porch") as porch:
            problem = NodeProblem(part="roles.detector", reason="no GPU\x1b[31m here")
            porch.report("running", [problem], edge=RoleReport(state="running", pid=7), detector=failed)
            asked = {"detector": 2, "edge": 1}
            row = site.wait_row("porch", state="running", running={"edge": 1}, asked=asked)
            assert row["problems"] == ["roles.detector: no GPU\x1b[31m here"]
            table = site.vigil("list")
            assert (table.status, "detector 0/2, edge 1/1" in table.out, "\x1b" in table.out) == (1, True, False)
            shown = site.vigil("show", "porch").out
            assert "no model" in shown
            assert site.row("attic")["state"] == "never heard"
            assert "porch starts again: edge" in site.vigil("restart", "porch", "--role", "edge").out
            assert site.vigil("drain", "porch").status == 0
            assert site.vigil("resume", "porch").status == 0
            assert porch.orders == ["restart {'role': 'edge'}", "drain", "resume"]
        site.wait_row("porch", state="offline")


def test_a_node_takes_its_file_and_its_cameras_along_to_its_new_name(site: Site) -> None:
    (site.registry / "nodes").mkdir(parents=True)
    (site.registry / "nodes" / "porch.yaml").write_text("area: Garden\nroles: {edge: 1}\n")
    camera = site.camera("yard", "source: 'synthetic:'  # over the door\nnode: porch\n")
    refused = site.vigil("rename", "attic", "gate")
    assert (refused.status, "no node 'attic'" in refused.errors) == (1, True), refused
    with running_fleet(site.settings), site.machine("porch") as porch, ExitStack() as stack:
        site.wait_row("porch", asked={"edge": 1})
        porch.report("running")
        site.wait_row("porch", state="running")

        def become() -> None:
            wait_until(lambda: porch.orders, what="the order")
            stack.enter_context(site.machine("gate")).report("running")

        other = threading.Thread(target=become)
        other.start()
        done = site.vigil("rename", "porch", "gate")
        other.join(30)
        assert (done.status, "porch is gate now" in done.out) == (0, True), done
        assert porch.orders == ["rename {'name': 'gate'}"]
        assert camera.read_text() == "source: 'synthetic:'  # over the door\nnode: gate\n"
        assert {file.name for file in (site.registry / "nodes").iterdir()} == {"gate.yaml"}
        assert yaml.safe_load((site.registry / "nodes" / "gate.yaml").read_text())["area"] == "Garden"


def test_a_node_that_cannot_take_another_name_stays_who_it_was(site: Site) -> None:
    (site.registry / "nodes").mkdir(parents=True)
    (site.registry / "nodes" / "porch.yaml").write_text("roles: {edge: 1}\n")
    with running_fleet(site.settings), site.machine("porch") as porch:
        porch.report("running")
        site.wait_row("porch", state="running", asked={"edge": 1})

        def fail() -> None:
            wait_until(lambda: porch.orders, what="the order")
            porch.report("running", [NodeProblem(part="name", reason="3 messages are left")])

        other = threading.Thread(target=fail)
        other.start()
        done = site.vigil("rename", "porch", "gate")
        other.join(30)
        assert (done.status, "3 messages are left" in done.errors) == (1, True), done
        assert {file.name for file in (site.registry / "nodes").iterdir()} == {"porch.yaml"}


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        (("accept",), 2, "--all"),
        (("accept", "porch", "--role", "edge=many"), 2, "detector=2"),
        (("show", "attic"), 1, "no node 'attic'"),
        (("ping", "attic", "--wait", "100ms"), 69, "did not answer"),
        (("remove", "attic", "--yes"), 1, "no node 'attic'"),
        (("adopt", "1234", "--all"), 2, "--all"),
    ],
)
def test_what_cannot_be_done_is_told(site: Site, command: Sequence[str], status: int, words: str) -> None:
    done = site.vigil(*command)
    assert (done.status, words in done.errors) == (status, True), done


def dismissed(hub: Settings) -> dict[str, list[str]]:
    """The nodes whose file was taken away, and their certificates."""
    return dict(json.loads((hub.state_dir / "fleet" / "nodes.json").read_text())["dismissed"])


def test_an_enrolled_node_is_accepted_by_itself_with_its_own_topics_only(tmp_path: Path) -> None:
    site = Population(tmp_path)
    site.authority()
    site.admit("hub", "hub", "node", "fleet")
    site.admit("hub", "alice", "person", "dashboard")
    porch_file = site.machine("porch")
    hub = load_settings(Path(site.hub[1]))
    token = site.token("porch", "edge")
    camera = site.registry / "cameras" / "yard.yaml"
    camera.parent.mkdir(parents=True)
    camera.write_text("source: 'synthetic:'\nnode: porch\n")
    with ExitStack() as stack:
        stack.enter_context(site.running(*site.hub, "broker", "run", says="broker.listening"))
        publish_index(site.options("hub", "fleet"))
        stack.enter_context(running_fleet(hub))
        heard = stack.enter_context(site.watching(everything("home"), tmp_path / "heard.log"))
        wait_until(lambda: vigil(*porch_file, "join", site.door, typed=f"{token}\n").status == 0, what="an open door")
        again = vigil(*porch_file, "join", site.door, typed=f"{token}\n")
        assert (again.status, "refuses" in again.errors) == (1, True), again
        with Machine(load_settings(Path(porch_file[1]))) as porch:
            porch.report("greeting")
            file = site.registry / "nodes" / "porch.yaml"
            wait_until(file.exists, what="a file of the node")
            assert yaml.safe_load(file.read_text()) == {"roles": {"edge": 1}}
            own, foreign = (str(CAMERA_MOTION_ACTIVE.at("home", camera=name)) for name in ("yard", "hall"))
            options = site.options("porch", "edge")

            def arrived() -> bool:
                publish(options, foreign, "ON")
                publish(options, own, "ON")
                return f"{own} ON" in heard.got

            wait_until(arrived, what="the right to its own camera")
            assert f"{foreign} ON" not in heard.got
            assert vigil(*site.hub, "node", "remove", "porch", "--now", "--yes").status == 0
            wait_until(lambda: publish(options, own, "x").returncode != 0, what="a broker that shuts it out")
            wait_until(lambda: vigil(*site.hub, "node", "show", "porch").status == 1, what="no trace at the broker")
        wait_until(lambda: not file.exists(), what="no file of the node")
        assert site.authority().roster().member("porch") is not None
        assert vigil(*porch_file, "renew").status == 1
        # Whoever is enrolled anew is accepted anew.
        assert vigil(*porch_file, "join", site.door, typed=f"{site.token('porch', 'edge')}\n").status == 0
        with Machine(load_settings(Path(porch_file[1]))) as porch:
            porch.report("greeting")
            wait_until(file.exists, what="a file of the node that has come back")
            # Nobody comes back by renewing.
            wait_until(lambda: "porch" not in dismissed(hub), what="a node that is in the registry")
            file.unlink()
            wait_until(lambda: "porch" in dismissed(hub), what="a node that is gone")
            assert vigil(*porch_file, "renew").status == 0
            member = site.authority().roster().member("porch")
            assert member is not None
            serials = {one.serial for one in member.in_force(datetime.now(UTC))}
            porch.report("greeting")
            wait_until(lambda: serials <= set(dismissed(hub).get("porch", ())), what="a node that stays gone")
            assert not file.exists()


def status_of_handover(port: int, *, length: str) -> int:
    """What the door of a machine that waits says to a request that announces so many bytes, and sends none."""
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    with closing(http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=tls)) as connection:
        connection.putrequest("POST", ADOPT_PATH)
        connection.putheader("Content-Length", length)
        connection.endheaders()
        return connection.getresponse().status


def test_a_machine_that_waits_is_adopted_once(site: Site, tmp_path: Path) -> None:
    authority = Authority.create(CaFolder(tmp_path / "hub" / "ca"), "home", ["127.0.0.1"])
    told: dict[str, str] = {}

    @contextmanager
    def announce(_name: str, *, port: int, properties: Mapping[str, str]) -> Iterator[None]:
        told.update(properties, port=str(port))
        yield

    own = Settings(state_dir=tmp_path / "fresh", bus=BusSettings(url=f"mqtt://127.0.0.1:{free_port()}"))
    stop, adopted = threading.Event(), []
    thread = threading.Thread(target=lambda: adopted.append(wait_adopted(own, stop, model="Pi", announce=announce)))
    thread.start()
    try:
        wait_until(lambda: "port" in told, what="an announcement")
        at = ("--at", f"127.0.0.1:{told['port']}", "--name", "porch")
        wrong = site.vigil("adopt", *at, "--code", "AAAA-BBBB-CCCC-DDDD")
        assert (wrong.status, "cannot prove" in wrong.errors) == (1, True), wrong
        assert not authority.roster().members
        assert status_of_handover(int(told["port"]), length="0000000009999999") == 404, "nobody waits for so much"
        done = site.vigil("adopt", *at, "--role", "edge", "--role", "detector=2", "--yes")
        assert done.status == 0, done
        thread.join(30)
    finally:
        stop.set()
    assert adopted == [True]
    assert (told["claimed"], told["id"]) == ("0", told["fingerprint"][:8])
    member = authority.roster().member("porch")
    assert member is not None
    assert set(member.roles) == {"edge", "detector", "detector.2", "agent", "doctor"}
    assert IdentityFolder(own.state_dir / "identity").roles() == tuple(sorted(member.roles))
    held = yaml.safe_load((site.registry / "nodes" / "porch.yaml").read_text())
    assert held == {"roles": {"edge": 1, "detector": 2}}
    place = read_place(own)
    assert place is not None
    assert (place.site, place.node, place.bus) == ("home", "porch", site.url)
    gone = site.vigil("adopt", *at, "--yes")
    assert (gone.status, "no answer" in gone.errors) == (69, True), gone


if os.environ.get("VIGIL_TEST_LONG"):

    def test_a_real_node_takes_another_name_and_goes_on(site: Site, tmp_path: Path) -> None:
        own = ("--site", "home", "--node", "porch", "--bus", site.url, "--state", str(tmp_path / "porch"))
        with running_fleet(site.settings), Vigil(*own, "node", "run", folder=tmp_path):
            site.wait_row("porch", state="greeting")
            site.vigil("accept", "porch")
            site.wait_row("porch", state="running", running={"edge": 1})
            done = site.vigil("rename", "porch", "gate")
            assert (done.status, "porch is gate now" in done.out) == (0, True), done
            site.wait_row("gate", state="running", running={"edge": 1})
            wait_until(lambda: not site.row("porch"), what="nothing under the old name")
