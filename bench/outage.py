"""Two hours without a broker, a node that loses its power in the middle, and then everything at once.

Four cameras' movements and escalations of two hours are raised in some seconds, by a process with a real outbox and a
clock that runs ahead; its way to Mosquitto refuses every connection. Half-way it is killed with SIGKILL and started
again. Then the way opens, to a broker and a `vigil bridge` that ran all the time, while the node goes on raising in
real time. The journal says the rest: what is missing or there twice, what came in which order, how long the new waited
beside the old, and how long all of it took.

    python bench/outage.py [--minutes MINUTES]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench._site import SITE, running_role
from broker import Bus, connect
from broker.messages import Escalation, Evidence, MotionEvent
from broker.outbox import split_event_id
from broker.topics import CAMERA_ESCALATION, CAMERA_MOTION
from config.clock import SystemClock
from config.log import configure_logging
from config.settings import BusSettings, Settings
from config.supervise import stop_on_signals
from console.chaos.proxy import LinkState, Switchboard
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import wait_until

CAMERAS = ("yard", "door", "hall", "lane")
SEED = 7
QUIET_S = 50.0
"""Mean time between two movements of a camera."""
LENGTHS_S = (3, 20)
"""How long a movement takes; each second of it is an event, besides its start and its end."""
ALARMING = 1 / 3
"""Share of the movements that raise an escalation."""
EVIDENCE_BYTES = 45_000
"""Size of the picture in an escalation of a 640 x 360 camera."""
LIVE_PER_S = 4
"""Events raised in real time while the backlog drains; each tenth is an escalation."""
LIVE_MIN_S = 3.0
"""For so long at least, so that there is something to measure."""
REBOOT_S = 60.0
QUIET_END_S = 11.0
"""Nothing moves so long before the broker is back: what is younger than 10 s is live, and overtakes the backlog."""
SEEN_AFTER_S = 0.5
"""The sender looks at the time four times a second, and must have seen the backlog before it is old."""
LIVE_P99_MAX_S = 1.0
TIMEOUT_S = 180.0


class OutageClock(SystemClock):
    """A clock that is told where it is in the outage, and is the machine's own once that is over."""

    def __init__(self, begin: datetime) -> None:
        self._begin = begin
        self._base_s = time.monotonic()
        self._elapsed_s: float | None = 0.0
        self._ahead_s = 0.0

    def move_to(self, elapsed_s: float) -> None:
        """So many seconds of the outage are over."""
        self._elapsed_s = elapsed_s

    def end_outage(self) -> None:
        """From now on time passes by itself."""
        self._ahead_s = self.monotonic_s() - time.monotonic()
        self._elapsed_s = None

    def now(self) -> datetime:
        """In the outage, or now."""
        elapsed_s = self._elapsed_s
        return super().now() if elapsed_s is None else self._begin + timedelta(seconds=elapsed_s)

    def monotonic_s(self) -> float:
        """Seconds, as if the outage took as long as it says."""
        elapsed_s = self._elapsed_s
        return super().monotonic_s() + self._ahead_s if elapsed_s is None else self._base_s + elapsed_s


@dataclass(frozen=True, order=True)
class Step:
    """Something that a camera says at a moment of the outage."""

    at_s: float
    camera: str
    movement: int
    kind: str


def schedule(length_s: float) -> list[Step]:
    """What every camera says in an outage of this length."""
    rng = random.Random(SEED)
    steps: list[Step] = []
    for camera in CAMERAS:
        at_s = rng.expovariate(1 / QUIET_S)
        for movement in itertools.count(1):
            length = rng.randint(*LENGTHS_S)
            if at_s + length > length_s:
                break
            steps.append(Step(at_s, camera, movement, "start"))
            steps += [Step(at_s + second, camera, movement, "update") for second in range(1, length)]
            steps.append(Step(at_s + length, camera, movement, "end"))
            if rng.random() < ALARMING:
                steps.append(Step(at_s + 1.5, camera, movement, "escalation"))
            at_s += length + rng.expovariate(1 / QUIET_S)
    return sorted(steps)


# --- the node, in a process of its own ----------------------------------------------------------------------------


class Node:
    """Raises what cameras see, with the outbox of an edge."""

    def __init__(self, bus: Bus, clock: OutageClock) -> None:
        self._bus = bus
        self._clock = clock
        self._picture = random.Random(SEED).randbytes(EVIDENCE_BYTES)
        self._started: dict[tuple[str, int], tuple[str, datetime]] = {}

    def end_left_open(self) -> int:
        """End what a predecessor had begun, as the edge does; how many there were."""
        left = self._bus.open_events(CAMERA_MOTION)
        for motion_id, start in left:
            assert isinstance(start, MotionEvent)
            self._move(start.camera, "end", motion_id, start.started_at)
        return len(left)

    def take(self, step: Step) -> None:
        """Say it, unless it belongs to a movement that the power cut ended."""
        key = step.camera, step.movement
        if step.kind == "start":
            self._started[key] = self._move(step.camera, "start", "", self._clock.now()), self._clock.now()
        elif key in self._started:
            motion_id, started_at = self._started[key]
            if step.kind == "escalation":
                self.alarm(step.camera)
            else:
                self._move(step.camera, step.kind, motion_id, started_at)

    def _move(self, camera: str, kind: str, motion_id: str, started_at: datetime) -> str:
        at = self._clock.now()

        def build(event_id: str) -> MotionEvent:
            return MotionEvent(
                id=event_id, motion_id=motion_id or event_id, camera=camera, type=kind,  # type: ignore[arg-type]
                started_at=started_at, at=at, score=0.05, boxes=((0.1, 0.2, 0.1, 0.3),),
            )  # fmt: skip

        return self._bus.publish_event(
            CAMERA_MOTION.at(SITE, camera=camera),
            build,
            opens=kind == "start",
            closes=motion_id if kind == "end" else None,
        )

    def alarm(self, camera: str) -> None:
        """Raise an escalation with a picture."""
        at = self._clock.now()
        picture = Evidence(content_type="image/jpeg", sha256="0" * 64, width=640, height=360, data=self._picture)

        def build(event_id: str) -> Escalation:
            return Escalation(
                id=event_id, camera=camera, rule="presence", kind="presence", severity="warning",
                summary=f"person at {camera}", label="person", score=0.9, captured_at=at, raised_at=at, frame_seq=7,
                worker=self._bus.origin, evidence=(picture,),
            )  # fmt: skip

        self._bus.publish_event(CAMERA_ESCALATION.at(SITE, camera=camera, origin=self._bus.origin), build)

    def live(self, number: int) -> None:
        """Say something of now: a movement within one event, now and then an escalation."""
        camera = CAMERAS[number % len(CAMERAS)]
        if number % 10 == 0:
            self.alarm(camera)
        else:
            self._move(camera, "update", "live", self._clock.now())


def be_node(folder: Path, url: str, begin: datetime, from_s: float, length_s: float) -> int:
    """Be the node from a moment of the outage on: tell standard output of each minute, and go on in real time."""
    configure_logging("error", "json", stream=sys.stderr)
    stop = threading.Event()
    stop_on_signals(stop)
    clock = OutageClock(begin)
    clock.move_to(from_s)
    settings = Settings(site=SITE, node="bench", state_dir=folder / "state", bus=BusSettings(url=url))
    bus = connect(settings, "edge", with_outbox=True, clock=clock)
    node = Node(bus, clock)
    bus.start()
    say(left_open=node.end_left_open())
    minute = int(from_s / 60)
    for step in schedule(length_s):
        if step.at_s < from_s:
            continue
        clock.move_to(step.at_s)
        node.take(step)
        if step.at_s // 60 > minute:
            minute = int(step.at_s // 60)
            say(minute=minute, rows=bus.statistics().outbox_rows)
    time.sleep(SEEN_AFTER_S)
    clock.move_to(length_s + QUIET_END_S)
    clock.end_outage()
    say(over=True, rows=bus.statistics().outbox_rows, connections=bus.statistics().link.connections)
    raise_live(node, bus, stop)
    bus.close(drain_s=30.0)
    return 0


def raise_live(node: Node, bus: Bus, stop: threading.Event) -> None:
    """Go on in real time from the broker's return until `stop` is set; say when the backlog is through."""
    while not bus.wait_connected(0.1) and not stop.is_set():
        pass
    connected_s = time.monotonic()
    say(connected=time.time())
    drained_s = None
    for number in itertools.count():
        if stop.wait(1 / LIVE_PER_S):
            return
        node.live(number)
        live_s = time.monotonic() - connected_s
        if drained_s is None and bus.statistics().outbox_rows <= LIVE_PER_S:
            drained_s = live_s
        if drained_s is not None and live_s > LIVE_MIN_S:
            say(drained_s=drained_s, resent=bus.statistics().resent)
            drained_s = float("inf")


def say(**words: object) -> None:
    """One line for the process that started this one."""
    print(json.dumps(words), flush=True)


# --- the outage, from outside -------------------------------------------------------------------------------------


class NodeProcess:
    """The node as a process that can be killed; what it says is kept."""

    def __init__(self, folder: Path, url: str, begin: datetime, from_s: float, length_s: float) -> None:
        command = [sys.executable, __file__, "--node", str(folder), url, begin.isoformat(), str(from_s), str(length_s)]
        self.said: dict[str, float] = {}
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said.update(json.loads(line))

    def wait_said(self, word: str, least: float = 0.0) -> float:
        """Wait until it has said this, with a number of at least this."""

        def has_said() -> bool:
            assert self._process.poll() is None, f"the node ended with {self._process.returncode}"
            return self.said.get(word, -1.0) >= least

        wait_until(has_said, timeout_s=TIMEOUT_S, what=f"{word} {least:g} of the node")
        return self.said[word]

    def end(self, number: signal.Signals) -> int:
        """End it, and read what it said to its end."""
        self._process.send_signal(number)
        status = self._process.wait(60)
        self._reader.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return status


@contextlib.contextmanager
def running_node(folder: Path, url: str, begin: datetime, from_s: float, length_s: float) -> Iterator[NodeProcess]:
    """A node that is not left behind."""
    node = NodeProcess(folder, url, begin, from_s, length_s)
    try:
        yield node
    finally:
        if node._process.poll() is None:  # noqa: SLF001 - its maker
            node.end(signal.SIGKILL)


@dataclass(frozen=True)
class Outage:
    """What the node said, and when the broker came back.

    Attributes:
        connected_s: when the node was connected, seconds since 1970.
        drained_s: how long after that nothing was left of the backlog.
        rows: what waited when the outage was over.
    """

    connected_s: float
    drained_s: float
    rows: int
    resent: int


def run(folder: Path, length_s: float) -> Outage:
    """The outage, the power cut in its middle, and its end."""
    (folder / "mosquitto").mkdir()
    (folder / "vigil.yaml").write_text(f"site: {SITE}\nnode: bench\n")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Mosquitto(folder / "mosquitto"))
        ways = stack.enter_context(Switchboard())
        url = f"mqtt://127.0.0.1:{ways.open('node', server.port)}"
        ways.do("node", lambda way: way.change(LinkState(refusing=True)))
        stack.enter_context(running_role(folder, server.url, ("bridge",)))
        begin = datetime.now(UTC) - timedelta(seconds=length_s)
        started_s = time.perf_counter()
        cut_s = lose_power(folder, url, begin, length_s)
        with running_node(folder, url, begin, cut_s + REBOOT_S, length_s) as node:
            rows = int(node.wait_said("over") and node.said["rows"])
            took_s = time.perf_counter() - started_s
            print(f"{length_s / 60:.0f} min of outage in {took_s:.0f} s: {rows} messages wait, "
                  f"{node.said['left_open']:.0f} movements were open when the power went")  # fmt: skip
            wait_until(lambda: b"bus.connected" in (folder / "bridge.log").read_bytes(), what="the bridge")
            ways.do("node", lambda way: way.heal())
            drained_s = node.wait_said("drained_s")
            assert node.end(signal.SIGTERM) == 0
    return Outage(node.said["connected"], drained_s, rows, int(node.said["resent"]))


def lose_power(folder: Path, url: str, begin: datetime, length_s: float) -> float:
    """The first half of the outage, and a kill -9; at which second of it."""
    with running_node(folder, url, begin, 0.0, length_s) as node:
        cut_s = node.wait_said("minute", length_s / 120) * 60
        node.end(signal.SIGKILL)
    print(f"kill -9 of the node after {cut_s / 60:.0f} min with {node.said['rows']:.0f} messages in its outbox")
    return cut_s


@dataclass(frozen=True)
class Stored:
    """One row of the journal."""

    event_id: str
    at_s: float
    stored_s: float


def read_journal(path: Path, query: str) -> list[Stored]:
    """Rows in the order in which they were stored."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        rows = db.execute(query).fetchall()
    return [
        Stored(one, datetime.fromisoformat(at).timestamp(), datetime.fromisoformat(stored).timestamp())
        for one, at, stored in rows
    ]


def unended(path: Path) -> int:
    """Movements in the journal that began and have not exactly one end."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT type, payload FROM event WHERE stream = 'camera_motion'").fetchall()
    ids = [(kind, json.loads(payload)["motion_id"]) for kind, payload in rows]
    ends = Counter(motion_id for kind, motion_id in ids if kind == "end")
    return sum(ends[motion_id] != 1 for kind, motion_id in ids if kind == "start")


def audit(state: Path) -> bool:
    """What `vigil audit` says of it; whether it is clean."""
    vigil = [sys.executable, "-m", "console", "--state", str(state), "--site", SITE, "audit", "--json"]
    done = subprocess.run(vigil, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)
    for kind in ("escalations", "events"):
        words = (f"{name} {found[kind][name]}" for name in ("raised", "present", "waiting", "missing", "repeated"))
        print(f"vigil audit, {kind}: {', '.join(words)}")
    whole = all(found[kind]["raised"] == found[kind]["present"] > 0 for kind in ("escalations", "events"))
    return done.returncode == 0 and whole


def p99_s(rows: Sequence[Stored], since_s: float) -> float:
    """How long the slowest but one in a hundred took from being raised, or from `since_s`, to being stored."""
    waits = sorted(row.stored_s - max(row.at_s, since_s) for row in rows)
    return waits[int(len(waits) * 0.99)]


def judge(journal: Path, outage: Outage) -> bool:
    """Print what the journal says; whether it is as it must be."""
    alarms = read_journal(journal, "SELECT event_id, raised_at, stored_at FROM escalation ORDER BY id")
    events = read_journal(journal, "SELECT event_id, at, stored_at FROM event ORDER BY id")
    old = [[row for row in rows if row.at_s < outage.connected_s] for rows in (alarms, events)]
    live = [row for row in (*alarms, *events) if row.at_s >= outage.connected_s]
    met_s = min(row.stored_s for row in (*alarms, *events))  # before that the bridge was not there
    disorder = sum(
        split_event_id(after.event_id)[2] < split_event_id(before.event_id)[2]
        for rows in old
        for before, after in itertools.pairwise(rows)
    )
    alarms_s, events_s = (rows[-1].stored_s - met_s for rows in old)
    live_p99_s = p99_s(live, met_s)
    open_ones = unended(journal)
    size = sum(map(len, old))
    print(f"backlog of {size}: escalations through after {alarms_s:.1f} s, motion after {events_s:.1f} s, "
          f"{size / max(events_s, 1e-3):.0f} a second; sent again {outage.resent}; "
          f"raised meanwhile {len(live)}, stored after {live_p99_s * 1e3:.0f} ms (p99)")  # fmt: skip
    print(
        f"out of order {disorder}, movements without their one end {open_ones}, live p99 {live_p99_s:.3f} s, "
        f"escalations before motion {alarms_s <= events_s}, time to drain {outage.drained_s:.1f} s "
        f"(target: 0, 0, at most {LIVE_P99_MAX_S:.0f} s, True)"
    )
    return not disorder and not open_ones and live_p99_s <= LIVE_P99_MAX_S and alarms_s <= events_s


def main() -> int:
    """Run, read the journal, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--node", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.node:
        folder, url, begin, from_s, length_s = options.node
        return be_node(Path(folder), url, datetime.fromisoformat(begin), float(from_s), float(length_s))
    with tempfile.TemporaryDirectory() as place:
        state = Path(place) / "state"
        outage = run(Path(place), options.minutes * 60)
        clean = audit(state)
        good = judge(state / "journal.db", outage)
    return 0 if clean and good else 1


if __name__ == "__main__":
    raise SystemExit(main())
