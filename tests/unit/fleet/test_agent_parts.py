"""What an agent is made of: its crew with real processes and a simulated clock, logs, memory, and its eyes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker.messages import NodeDocument
from config import ManualClock
from config.process import RoleProcess
from fleet.agent.crew import AGAIN_S, RETRY_S, STOP_S, Crew
from fleet.agent.hardware import look_at_machine
from fleet.agent.logs import BYTES_MAX, read_log
from fleet.agent.pulse import Pulse
from fleet.agent.remembered import Remembered
from fleet.agent.wanted import WantedRole
from tests.support.waiting import wait_until

PATIENCE_S = 60.0
ROLE = (
    "import signal, sys\n"
    "from config.service import Service\n"
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
    "Service(lambda: 'well').ready()\n"
    "print('up', flush=True)\n"
    "signal.pause()\n"
)
DEAF = ROLE.replace("lambda *_: sys.exit(0)", "signal.SIG_IGN")


class Ship:
    """A crew whose processes are small programs."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.code = dict.fromkeys(("edge", "detector", "bridge"), ROLE)
        self.order: list[str] = []
        self._folder = folder
        (folder / "run").mkdir()
        self.crew = Crew(self._make, folder / "run", PATIENCE_S, self.clock)

    def _make(self, wanted: WantedRole, pulse: Pulse) -> RoleProcess:
        return RoleProcess(
            wanted.name,
            [sys.executable, "-c", self.code[wanted.name]],
            log_file=self._folder / f"{wanted.name}.log",
            environment=dict(os.environ) | pulse.environment | {"PYTHONPATH": str(Path(__file__).parents[3])},
        )

    def want(self, *names: str, mark: str = "") -> None:
        self.crew.want({name: WantedRole(name, (), settings_hash=mark) for name in names})

    def wait(self, state: str, *names: str) -> None:
        def reached() -> bool:
            reports = self.crew.reports()
            return all(reports[name].state == state for name in names)

        self.wait_for(reached, f"{names} {state}")

    def wait_for(self, holds: Callable[[], bool], what: str) -> None:
        def reached() -> bool:
            self.crew.tend()
            return holds()

        wait_until(reached, what=what)

    def pid(self, name: str) -> int:
        pid = self.crew.reports()[name].pid
        assert pid is not None
        return pid


@pytest.fixture
def ship(tmp_path: Path) -> Iterator[Ship]:
    made = Ship(tmp_path)
    yield made
    made.crew.close()


def test_one_that_hangs_is_killed_and_started_again(ship: Ship) -> None:
    ship.want("edge", "bridge")
    ship.wait("running", "edge", "bridge")
    edge, bridge = ship.pid("edge"), ship.pid("bridge")
    os.kill(edge, signal.SIGSTOP)
    ship.crew.tend()
    # The other one goes on, and says so: its silence is none of this clock's time.
    ship.crew._posts["bridge"].pulse._patience_s = 1e9
    ship.clock.advance(PATIENCE_S / 2)
    ship.crew.tend()
    assert ship.pid("edge") == edge, "half of its time is no silence"
    ship.clock.advance(PATIENCE_S)
    ship.wait("waiting", "edge")
    assert ship.crew.reports()["edge"].error == "it hung, and was killed"
    assert ship.crew.hung == 1
    ship.clock.advance(60)
    ship.wait("running", "edge")
    assert ship.pid("edge") != edge
    assert ship.pid("bridge") == bridge
    assert ship.crew.reports()["edge"].restarts == 1


def test_they_stop_along_the_datas_way_and_the_deaf_are_killed(ship: Ship) -> None:
    ship.code["edge"] = DEAF
    ship.want("bridge", "detector", "edge")
    ship.wait("running", "edge", "detector", "bridge")
    ship.crew.resting = True
    for _ in range(3):
        ship.crew.tend()
    reports = ship.crew.reports()
    assert reports["detector"].pid is not None, "while the edge still sends, who takes it in goes on"
    ship.clock.advance(STOP_S)
    ship.wait("stopped", "edge", "detector", "bridge")
    assert ship.crew.is_idle
    ship.crew.resting = False
    ship.wait("running", "edge", "detector", "bridge")


def test_only_what_has_changed_is_started_again(ship: Ship) -> None:
    ship.want("edge", "bridge")
    ship.wait("running", "edge", "bridge")
    edge, bridge = ship.pid("edge"), ship.pid("bridge")
    ship.crew.want({"edge": WantedRole("edge", (), settings_hash="new"), "bridge": WantedRole("bridge", ())})
    ship.wait_for(lambda: ship.crew.reports()["edge"].pid not in (None, edge), "a new edge")
    assert ship.pid("bridge") == bridge
    ship.want("bridge")
    ship.wait_for(lambda: ship.crew.names == ("bridge",), "the end of the edge")
    assert ship.crew.restart("bridge") == ["bridge"]
    ship.wait_for(lambda: ship.crew.reports()["bridge"].pid not in (None, bridge), "a new one")
    assert ship.crew.reports()["bridge"].restarts == 1


def test_one_that_gives_up_says_why_and_is_tried_again_much_later(ship: Ship) -> None:
    ship.code["detector"] = "import sys; sys.exit('vigil: `vigil detector` needs cv2, which is not installed: pip ...')"
    ship.want("detector")
    ship.wait("failed", "detector")
    (problem,) = ship.crew.problems()
    assert problem.part == "roles.detector"
    assert problem.reason.startswith("`vigil detector` needs cv2")
    ship.clock.advance(RETRY_S / 2)
    ship.wait("failed", "detector")
    ship.code["detector"] = ROLE
    ship.clock.advance(RETRY_S)
    ship.wait("running", "detector")
    assert ship.crew.problems() == []


def test_one_that_cannot_be_started_leaves_the_others_alone(ship: Ship, tmp_path: Path) -> None:
    blocked = tmp_path / "bridge.log.1"
    (blocked / "in-the-way").mkdir(parents=True)
    (tmp_path / "bridge.log").touch()
    ship.want("bridge", "edge")
    ship.wait("running", "edge")
    ship.wait("failed", "bridge")
    (problem,) = ship.crew.problems()
    assert problem.part == "roles.bridge"
    assert problem.reason.startswith("it cannot be started: ")
    (blocked / "in-the-way").rmdir()
    blocked.rmdir()
    ship.clock.advance(AGAIN_S)
    ship.wait("running", "edge", "bridge")


def test_the_end_of_a_log_is_read_and_followed(tmp_path: Path) -> None:
    log = tmp_path / "edge.log"
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    part = read_log(log, lines=2)
    assert part.text == "line 98\nline 99\n"
    assert read_log(log, cursor=part.cursor).text == ""
    with log.open("a") as more:
        more.write("line 100\nhalf a l")
    following = read_log(log, cursor=part.cursor)
    assert following.text == "line 100\n", "half a line waits for its other half"
    with log.open("a") as more:
        more.write("ine\n")
    assert read_log(log, cursor=following.cursor).text == "half a line\n"
    # Begun anew, as the agent does with one that has grown: from its beginning.
    os.truncate(log, 0)
    with log.open("a") as more:
        more.write("anew\n")
    assert read_log(log, cursor=following.cursor).text == "anew\n"


def test_a_long_log_comes_in_parts_that_fit(tmp_path: Path) -> None:
    log = tmp_path / "edge.log"
    log.write_text("x" * 99 + "\n")
    cursor = read_log(log).cursor
    with log.open("a") as more:
        more.write(("y" * 99 + "\n") * 1000)
    sizes, more_waits = [], True
    while more_waits:
        part = read_log(log, cursor=cursor)
        cursor, more_waits = part.cursor, part.more
        sizes.append(len(part.text))
    assert sum(sizes) == 100_000
    assert max(sizes) <= BYTES_MAX
    assert len(read_log(log, lines=1000).text) <= BYTES_MAX


def test_what_the_site_said_is_remembered_and_a_broken_file_is_no_end(tmp_path: Path) -> None:
    file = tmp_path / "agent" / "home.json"
    document = NodeDocument(node="porch", revision=3, roles={"edge": 1}, settings={"edge": {"hot_c": 70}})
    Remembered(file).keep(document, drained=True)
    assert file.stat().st_mode & 0o077 == 0
    again = Remembered(file)
    assert (again.document, again.drained) == (document, True)
    file.write_text("{")
    assert Remembered(file).document is None


def test_a_raspberry_pi_is_seen_as_what_it_is(tmp_path: Path) -> None:
    files = {
        "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.5\0",
        "proc/device-tree/serial-number": "10000000abcdef01\0",
        "etc/os-release": 'NAME="Debian GNU/Linux"\nPRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n',
        "dev/video0": "",
        "dev/video1": "",
        "dev/video10": "",
        "sys/class/video4linux/video0/name": "HD Webcam",
        "sys/class/video4linux/video0/index": "0",
        "sys/class/video4linux/video1/name": "HD Webcam",
        "sys/class/video4linux/video1/index": "1",
        "sys/class/video4linux/video10/name": "bcm2835-codec-decode",
        "sys/class/video4linux/video10/index": "0",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    seen = look_at_machine(tmp_path)
    assert (seen.model, seen.serial) == ("Raspberry Pi 4 Model B Rev 1.5", "10000000abcdef01")
    assert seen.system == "Debian GNU/Linux 13 (trixie)"
    assert seen.cameras == ("v4l2:/dev/video0",)
    assert seen.cores >= 1
    assert seen.memory_bytes > 0


def test_a_machine_that_tells_nothing_is_no_error(tmp_path: Path) -> None:
    seen = look_at_machine(tmp_path)
    assert (seen.model, seen.serial, seen.system, seen.cameras) == ("", "", "", ())
