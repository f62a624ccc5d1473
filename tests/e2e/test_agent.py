"""`vigil node run` as a node runs it: real processes, a real Mosquitto, a real `kill -9`."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker import Bus, Delivery
from broker.asking import Asker
from broker.messages import MotionEvent, NodeDocument, NodeReport, RegistryIndex, RoleReport
from broker.topics import CAMERA_MOTION, NODE_REPORT, REGISTRY_INDEX, REGISTRY_NODE
from config.settings import Settings
from tests.e2e.conftest import Join
from tests.e2e.vigil_process import Vigil, run_vigil
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
NODE = "node-1"


class Site:
    """What the fleet says on this bus, and what the node answers."""

    def __init__(self, bus: Bus, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        self.heard: list[NodeReport] = []
        self.moved: list[MotionEvent] = []
        self._bus = bus
        self._revisions = itertools.count(1)
        self._lock = threading.Lock()
        bus.subscribe(NODE_REPORT, self._on_report)
        bus.subscribe(CAMERA_MOTION, self._on_motion)

    def _on_report(self, delivery: Delivery) -> None:
        if isinstance(delivery.content, NodeReport) and not delivery.retained:
            self.heard.append(delivery.content)

    def _on_motion(self, delivery: Delivery) -> None:
        if isinstance(delivery.content, MotionEvent):
            self.moved.append(delivery.content)

    def ask_for(self, **wanted: Any) -> int:  # noqa: ANN401 - whatever a document says
        revision = next(self._revisions)
        self._bus.publish(REGISTRY_NODE.at("home", node=NODE), NodeDocument(node=NODE, revision=revision, **wanted))
        return revision

    def index(self, *nodes: str) -> None:
        index = RegistryIndex(revision=next(self._revisions), at=datetime.now(UTC), nodes=nodes)
        self._bus.publish(REGISTRY_INDEX.at("home"), index)

    @property
    def report(self) -> NodeReport:
        return self.heard[-1]

    def wait(self, holds: Callable[[NodeReport], object], what: str) -> NodeReport:
        wait_until(lambda: self.heard and holds(self.report), timeout_s=60, what=what)
        return self.report

    def order(self, name: str, **arguments: str) -> Mapping[str, str]:
        with Asker(self.settings, "people") as asker:
            reply = asker.order(NODE, "agent", name, arguments, 30)
        assert reply is not None
        assert reply.ok, reply.reason
        return reply.result

    def agent(self, environment: Mapping[str, str] | None = None) -> Vigil:
        return Vigil("--config", str(self.file), "node", "run", folder=self.folder, environment=environment)

    @property
    def file(self) -> Path:
        return self.folder / "vigil.yaml"

    def write(self, **further: Any) -> None:  # noqa: ANN401 - whatever a site file says
        camera = {"source": "synthetic:street?width=160&height=120&fps=10"}
        settings = {
            "node": NODE,
            "state_dir": str(self.settings.state_dir),
            "bus": {"url": self.settings.bus.url},
            "cameras": {"yard": camera},
            **further,
        }
        self.file.write_text(yaml.safe_dump(settings))


@pytest.fixture
def site(join: Join, settings: Settings, tmp_path: Path) -> Site:
    (tmp_path / "node").mkdir()
    site = Site(join("fleet"), settings, tmp_path / "node")
    site.write()
    return site


def runs(role: str) -> Callable[[NodeReport], bool]:
    return lambda report: report.roles.get(role, NO_ROLE).state == "running"


NO_ROLE = RoleReport(state="stopped")


def test_a_node_runs_what_its_document_asks_and_says_what_it_cannot(site: Site) -> None:
    with site.agent() as agent:
        # It greets at once; what its machine is follows as soon as it has looked.
        greeting = site.wait(lambda report: report.state == "greeting" and report.hardware.cores, "a greeting")
        assert (greeting.node, greeting.revision, greeting.roles) == (NODE, 0, {})
        assert greeting.hardware.cores == os.cpu_count()

        site.ask_for(roles={"edge": 1, "kettle": 1, "console": 0})
        report = site.wait(runs("edge"), "the edge")
        assert [problem.part for problem in report.problems] == ["roles.kettle"]
        first = report.roles["edge"].pid
        assert first is not None

        # Somebody else's setting: the edge goes on as it is.
        revision = site.ask_for(roles={"edge": 1}, settings={"console": {"port": 8127}})
        report = site.wait(lambda report: report.revision == revision, "the second document")
        assert report.problems == ()
        assert report.roles["edge"].pid == first
        # One that cannot be: it goes on with those of before, and says so.
        revision = site.ask_for(roles={"edge": 1}, settings={"edge": {"hot_c": 7}})
        report = site.wait(lambda report: report.revision == revision, "the third document")
        assert [problem.part for problem in report.problems] == ["settings"]
        assert "edge.hot_c" in report.problems[0].reason
        assert report.roles["edge"].pid == first
        # Its own: another start.
        site.ask_for(roles={"edge": 1}, settings={"edge": {"stall_timeout_s": 7}})
        site.wait(lambda report: runs("edge")(report) and report.roles["edge"].pid != first, "a new edge")
        assert "stall_timeout_s: 7" in (site.settings.state_dir / "agent" / "vigil.yaml").read_text()

        log = site.order("logs", role="edge", lines="1")
        assert json.loads(log["text"])["level"]
        assert site.order("logs", role="edge", cursor=log["cursor"])["cursor"].split(":")[0] in log["cursor"]
        assert site.order("ping")["version"]

        second = run_vigil("--config", str(site.file), "node", "run")
        assert (second[0], "another agent runs on" in second[2]) == (1, True)

        assert site.order("drain") == {"state": "draining"}
        drained = site.wait(lambda report: report.state == "drained", "a drained node")
        assert drained.roles["edge"] == RoleReport(state="stopped", restarts=drained.roles["edge"].restarts)
        # Another word of the site that says nothing of it, as after a broker that has lost everything.
        revision = site.ask_for(roles={"edge": 1}, settings={"edge": {"stall_timeout_s": 7}})
        assert site.wait(lambda report: report.revision == revision, "the same again").state == "drained"
        site.order("resume")
        site.wait(lambda report: report.roles["edge"].pid is not None, "the edge after the rest")

        site.index("another")
        gone = site.wait(lambda report: report.state == "greeting" and not report.roles, "a node that is forgotten")
        assert gone.revision == 0
        agent.process.send_signal(signal.SIGTERM)
        assert agent.wait_end() == 0
    site.wait(lambda report: report.state == "offline", "its goodbye")


def test_nothing_is_lost_when_the_agent_is_killed(site: Site, mosquitto: Mosquitto) -> None:
    site.ask_for(roles={"edge": 1, "bridge": 1})
    with site.agent() as agent:
        before = site.wait(lambda report: runs("edge")(report) and runs("bridge")(report), "edge and bridge")
        wait_until(lambda: site.moved, timeout_s=60, what="motion")
        agent.process.kill()
        agent.wait_end()
    for role in before.roles.values():
        assert role.pid is not None
        wait_until(lambda pid=role.pid: not is_alive(pid), what="the end of its processes")  # type: ignore[misc]
    # Started again as systemd does; the broker is away, and has forgotten the document.
    mosquitto.stop()
    mosquitto.forget()
    with site.agent() as agent:
        agent.wait_said('"role": "edge", "event": "agent.role_started"')
        mosquitto.start()
        site.wait(lambda report: report.started_at > before.started_at and runs("edge")(report), "edge")
        agent.process.send_signal(signal.SIGTERM)
        assert agent.wait_end() == 0
    status, said, errors = run_vigil("--config", str(site.file), "audit", "--json")
    assert status == 0, said + errors
    events = json.loads(said)["events"]
    assert events["raised"] >= 1
    assert (events["present"], events["missing"], events["repeated"]) == (events["raised"], 0, 0)


ENGINE = """\
#!/bin/sh
# What an engine does at this boundary, without images: it notes what it was asked, and runs the program itself.
here={here}
echo "$@" >> $here/asked
verb=$1
for name; do :; done
case "$verb" in
info) echo 5.0.0 ;;
container) test -e $here/$name.pid ;;
rm) rm $here/$name.pid ;;
stop) kill -TERM $(cat $here/$name.pid) ;;
run)
    while [ "$1" != "image:test" ]; do
        case "$1" in --name) echo $$ > $here/$2.pid ;; --env) case "$2" in *=*) export "$2" ;; esac ;; esac
        shift
    done
    shift 2
    exec {python} -P -m console "$@"
    ;;
esac
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A GPU host and a container engine, as the programs that a node asks say it."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name, text in (
        ("podman", ENGINE.format(here=folder, python=sys.executable)),
        ("nvidia-smi", "#!/bin/sh\necho NVIDIA T4\necho NVIDIA T4\n"),
    ):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def test_gpus_are_given_out_and_a_role_runs_in_a_container(site: Site, programs: Path) -> None:
    site.write(bus={"url": site.settings.bus.url, "username": "node"})
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    name = f"vigil-home-{NODE}-bridge"
    # What an agent before this one left behind.
    (programs / f"{name}.pid").write_text("1")
    with site.agent({"PATH": path, "VIGIL_BUS__PASSWORD": "open-sesame"}) as agent:
        site.ask_for(roles={"bridge": 1}, gpus={"bridge": (1, 7), "detector": (0,)})
        report = site.wait(runs("bridge"), "the bridge as a process")
        assert report.hardware.gpus == ("NVIDIA T4", "NVIDIA T4")
        assert report.hardware.engines == ("podman",)
        about = {problem.part: problem.reason for problem in report.problems}
        assert set(about) == {"gpus.bridge", "gpus.detector"}
        assert "no GPU 7 (it has 2)" in about["gpus.bridge"]
        environment = Path(f"/proc/{report.roles['bridge'].pid}/environ").read_bytes().split(b"\0")
        assert {b"CUDA_VISIBLE_DEVICES=1", b"CUDA_DEVICE_ORDER=PCI_BUS_ID"} <= set(environment)

        revision = site.ask_for(roles={"bridge": 1}, gpus={"bridge": (1,)}, runtime="containers", image="image:test")
        report = site.wait(lambda report: report.revision == revision and runs("bridge")(report), "the container")
        assert (report.roles["bridge"].runtime, report.roles["bridge"].pid) == ("container", None)
        assert report.problems == ()
        asked = (programs / "asked").read_text()
        state = site.settings.state_dir
        for part in (
            f"rm --force {name}\n",
            f"run --rm --interactive --network host --name {name} ",
            f" --volume {state}:{state} ",
            " --device nvidia.com/gpu=1 ",
            " --env VIGIL_BUS__PASSWORD ",
            f" image:test vigil --until-stdin-closes --config {state}/agent/vigil.yaml bridge\n",
        ):
            assert part in asked
        assert "open-sesame" not in asked, "everybody reads a command line with ps"

        site.order("drain")
        site.wait(lambda report: report.state == "drained", "an empty node")
        assert f"stop --time 6 {name}\n" in (programs / "asked").read_text()
        assert not is_alive(int((programs / f"{name}.pid").read_text()))
        agent.process.send_signal(signal.SIGTERM)
        assert agent.wait_end() == 0


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
