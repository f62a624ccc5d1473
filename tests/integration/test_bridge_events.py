"""Events and escalations through a real broker into the sink, while the bridge is killed and a node is a thief's."""

from __future__ import annotations

import json
import random
import textwrap
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bridge.journal import EventFilter, JournalReader
from broker import Bus, Delivery, connect, listen
from broker.messages import Message, NodeHealth, Receipt, Receipts
from broker.outbox import event_id, split_event_id
from broker.topics import CAMERA_CLIP, CAMERA_ESCALATION, CAMERA_MOTION, CAMERA_TRACK, NODE_HEALTH, RECEIPT, Topic
from tests.integration.bridge_process import Bridge, settings_for, wait_delivered
from tests.integration.mock_kafka import MockKafka
from tests.support.embedded import EmbeddedBroker
from tests.support.messages import clip, escalation, motion, track
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(180)

MOTION = CAMERA_MOTION.at("home", camera="yard")
TRACK = CAMERA_TRACK.at("home", camera="yard")
ESCALATION = CAMERA_ESCALATION.at("home", camera="yard", origin="node-1.detector")
KINDS: tuple[tuple[Topic, Callable[[str], Message]], ...] = (
    (ESCALATION, escalation),
    (TRACK, track),
    (MOTION, motion),
)
STREAMS = tuple(topic.spec.name for topic, _ in KINDS)


@dataclass(frozen=True)
class Mesh:
    """A node and a worker that publish, and the state folder that they share with the bridge."""

    url: str
    state: Path
    edge: Bus
    detector: Bus

    def publish(self, count: int, meanwhile: Callable[[int], None] = lambda _done: None) -> None:
        """Of each kind so many."""
        pause = threading.Event()
        for done in range(1, count + 1):
            for topic, build in KINDS:
                (self.edge if topic is MOTION else self.detector).publish_event(topic, build)
            meanwhile(done)
            pause.wait(0.005)

    def wait_delivered(self) -> None:
        """Wait for every receipt."""
        wait_delivered(self.edge, self.detector)


@contextmanager
def opened(url: str, state: Path) -> Iterator[Mesh]:
    settings = settings_for(url, state)
    edge, detector = (connect(settings, role, with_outbox=True) for role in ("edge", "detector"))
    for bus in (edge, detector):
        bus.start()
        assert bus.wait_connected(30)
    yield Mesh(url, state, edge, detector)
    edge.close(drain_s=0)
    detector.close(drain_s=0)


@pytest.fixture
def mesh(mosquitto: Mosquitto, tmp_path: Path) -> Iterator[Mesh]:
    with opened(mosquitto.url, tmp_path / "state") as made:
        yield made


@pytest.fixture
def bridge(mesh: Mesh) -> Iterator[Bridge]:
    made = Bridge(mesh.url, mesh.state)
    yield made
    made.close()


def audited(bridge: Bridge, *arguments: str) -> tuple[int, dict[str, Any]]:
    audit = bridge.ask("audit", "--json", *arguments)
    assert audit.stdout, audit.stderr
    return audit.returncode, json.loads(audit.stdout)


def assert_all_once(bridge: Bridge, count: int) -> None:
    for stream in STREAMS:
        assert sorted(bridge.stored(stream)) == list(range(1, count + 1))
    status, verdict = audited(bridge)
    assert status == 0
    for kind, expected in (("escalations", count), ("events", 2 * count)):
        sums = {name: number for name, number in verdict[kind].items() if number}
        assert sums == {"raised": expected, "expected": expected, "present": expected}


def killed_now_and_then(mesh: Mesh, bridge: Bridge, count: int, seed: int) -> None:
    """Publish, and kill the bridge three times, at points that the seed chooses; it is started again a little later."""
    chosen = random.Random(seed)
    deaths = sorted(chosen.sample(range(10, count - 10), 3))
    bridge.start()
    for death in deaths:
        mesh.publish(death // 3)
        wait_until(lambda: bridge.stored(chosen.choice(STREAMS)), what="some progress")
        bridge.kill()
        mesh.publish(5)
        bridge.start()
    mesh.wait_delivered()


@pytest.mark.parametrize("seed", range(3))
def test_a_bridge_that_is_killed_has_every_event_and_escalation_once(mesh: Mesh, bridge: Bridge, seed: int) -> None:
    killed_now_and_then(mesh, bridge, 200, seed)
    assert_all_once(bridge, max(bridge.stored("camera_motion")))
    assert bridge.stop() == 0


def test_a_bridge_that_is_killed_on_amqtt_too(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path) as broker, opened(broker.url, tmp_path / "state") as mesh:
        bridge = Bridge(broker.url, mesh.state)
        killed_now_and_then(mesh, bridge, 60, seed=1)
        assert_all_once(bridge, max(bridge.stored("camera_motion")))
        assert bridge.stop() == 0


DEATHS = {
    "before the transaction": "journal.Journal.write = before(journal.Journal.write)",
    "within the transaction": "store.Marks.advance = before(store.Marks.advance)",
    "after the transaction": "forward.Forwarder._on_stored = before(forward.Forwarder._on_stored)",
    "before the receipt": "forward.Forwarder._send_receipts = before(forward.Forwarder._send_receipts)",
    "after the receipt": "forward.Forwarder._send_receipts = after(forward.Forwarder._send_receipts)",
}
DYING = textwrap.dedent(
    """
    import os, sys, time
    from bridge import forward, journal
    from bridge.journal import store
    from console.cli import main

    calls = 0

    def due():
        global calls
        calls += 1
        return calls == 2

    def before(step):
        return lambda *arguments: os._exit(9) if due() else step(*arguments)

    def after(step):
        return lambda *arguments: (step(*arguments), time.sleep(0.2), os._exit(9)) if due() else step(*arguments)

    {death}
    sys.exit(main())
    """
)


@pytest.mark.parametrize("point", DEATHS)
def test_a_bridge_that_dies_at_this_point_stores_once_and_answers_the_repeat(point: str, mesh: Mesh) -> None:
    receipts: list[Receipt] = []
    for bus in (mesh.edge, mesh.detector):
        bus.subscribe(RECEIPT, lambda delivery: receipts.extend(received(delivery)), origin=bus.origin)
    dying = Bridge(mesh.url, mesh.state, program=("-c", DYING.format(death=DEATHS[point])))
    dying.start()
    mesh.publish(1)
    # It may have died of the first batch already: then both messages of it came at one time.
    wait_until(lambda: receipts or dying.stored() or not dying.runs, what="the first batch")
    mesh.publish(4)
    assert dying.wait() == 9
    before = {stream: dying.stored(stream) for stream in STREAMS}
    bridge = Bridge(mesh.url, mesh.state)
    bridge.start()
    mesh.wait_delivered()
    assert_all_once(bridge, 5)
    if point in ("after the transaction", "before the receipt"):
        assert any(before.values())
        assert any(receipt.repeated for receipt in receipts)
    assert bridge.stop() == 0


def received(delivery: Delivery) -> tuple[Receipt, ...]:
    assert isinstance(delivery.content, Receipts)
    return delivery.content.receipts


def test_a_thief_under_anothers_ids_settles_repeats_and_shuts_out_nothing(mesh: Mesh, bridge: Bridge) -> None:
    """It has the node of camera `gate`, knows every id, and is quicker than the owner of the ids."""
    bridge.start()
    mesh.publish(1)
    mesh.wait_delivered()
    bridge.kill()
    first = JournalReader(mesh.state / "journal.db")
    epochs = {stream: (origin, epoch) for stream, origin, epoch, _ in first.identities()}
    first.close()
    thief = listen(settings_for(mesh.url, mesh.state, node="node-2"), "thief")
    thief.start()
    assert thief.wait_connected(30)
    gate = CAMERA_MOTION.at("home", camera="gate")
    for origin, epoch in epochs.values():
        forged = motion(event_id(origin, epoch, 2), camera="gate")
        thief._link.send(thief._outbound(gate, forged))
    mesh.publish(1)
    bridge.start()
    mesh.wait_delivered()
    thief.close()
    assert bridge.stored() == [1, 2]
    assert bridge.stored("camera_track") == [1, 2]
    with closing(JournalReader(mesh.state / "journal.db")) as reader:
        genuine = [entry.seq for entry in reader.events(EventFilter(stream="camera_motion", camera="yard"))]
        assert genuine == [1, 2]
        assert len(reader.events(EventFilter(camera="gate"))) == 3
    _, verdict = audited(bridge)
    assert verdict["escalations"] == {
        "raised": 2, "expected": 2, "present": 2, "quarantined": 0, "released": 0, "expired": 0, "waiting": 0,
        "missing": 0, "repeated": 0,
    }  # fmt: skip
    assert verdict["events"]["repeated"] == 1
    bridge.stop()


def test_an_outbox_that_was_restored_from_a_copy_loses_nothing(mesh: Mesh, bridge: Bridge) -> None:
    """Its numbers come again, on other messages: the sink keeps both, and the audit says so."""
    settings = settings_for(mesh.url, mesh.state)
    path = mesh.state / "old" / "outbox.db"
    bridge.start()
    place = CAMERA_ESCALATION.at("home", camera="yard", origin="node-1.detector.2")

    def raise_one(summary: str) -> str:
        bus = connect(settings, "detector.2", with_outbox=True, outbox_file=path)
        bus.start()
        identity = bus.publish_event(place, lambda identity: escalation(identity, summary=summary))
        wait_delivered(bus)
        bus.close()
        return identity

    raise_one("first")
    copies = {part: part.read_bytes() for part in path.parent.iterdir()}
    second = raise_one("second")
    for part in path.parent.iterdir():
        part.unlink()
    for part, content in copies.items():
        part.write_bytes(content)
    assert raise_one("another second") == second
    with closing(JournalReader(mesh.state / "journal.db")) as reader:
        assert [entry.summary for entry in reader.entries()] == ["first", "second", "another second"]
    assert audited(bridge)[1]["escalations"]["repeated"] == 1


def test_the_health_tells_gaps_and_knows_them_after_a_restart(mesh: Mesh, bridge: Bridge, tmp_path: Path) -> None:
    reports: list[NodeHealth] = []

    def on_health(delivery: Delivery) -> None:
        assert isinstance(delivery.content, NodeHealth)
        reports.append(delivery.content)

    watcher = listen(settings_for(mesh.url, mesh.state), "watch")
    watcher.subscribe(NODE_HEALTH, on_health, role="bridge")
    watcher.start()
    assert watcher.wait_connected(30)
    bridge.start()
    mesh.publish(2)
    mesh.wait_delivered()
    origin, epoch, seq = split_event_id(mesh.edge.publish_event(MOTION, motion))
    mesh.wait_delivered()
    watcher._link.send(watcher._outbound(MOTION, motion(event_id(origin, epoch, seq + 5))))
    wait_until(lambda: seq + 5 in bridge.stored("camera_motion"), what="the one after the gap")
    assert bridge.stop() == 0
    bridge.start()
    mesh.publish(1)
    mesh.wait_delivered()
    assert bridge.stop() == 0
    watcher.close()
    told = [{name: count for name, count in report.counts.items() if name.startswith("gaps")} for report in reports]
    assert {"gaps": 4, "gaps/camera_motion/node-1.edge": 4} in told
    assert told[-1] == {"gaps": 3, "gaps/camera_motion/node-1.edge": 3}
    assert reports[-1].counts["events"] == 2


def test_the_list_of_events(mesh: Mesh, bridge: Bridge) -> None:
    bridge.start()
    mesh.publish(2)
    mesh.edge.publish_event(MOTION, lambda identity: motion(identity, type="end", motion_id="\x1b[2Jm-2", score=0.25))
    mesh.edge.publish_event(CAMERA_CLIP.at("home", camera="yard"), partial(clip, error="nothing was recorded"))
    mesh.wait_delivered()
    listed = bridge.ask("events").stdout.splitlines()
    assert Counter(line.split()[2] for line in listed) == {"motion": 3, "track": 2, "clip": 1}
    assert next(line for line in listed if "  clip" in line).endswith("nothing was recorded")
    assert "person" in next(line for line in listed if "  track" in line)
    assert all("\x1b" not in line for line in listed)
    (last,) = bridge.ask("events", "--stream", "motion", "--limit", "1", "--json").stdout.splitlines()
    entry = json.loads(last)
    assert (entry["stream"], entry["type"], entry["message"]["score"]) == ("camera_motion", "end", 0.25)
    assert "payload" not in entry
    assert bridge.ask("events", "--camera", "gate").stdout == ""
    assert bridge.ask("events", "--since", "1m").stdout == ""
    assert bridge.ask("escalations", "--json").stdout.count("\n") == 2


def test_events_into_kafka_and_out_of_the_audit(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIGIL_BRIDGE__KAFKA__CONNECT_TIMEOUT_S", "2")
    with MockKafka("vigil.escalations", "vigil.events") as kafka:
        bridge = Bridge(mesh.url, mesh.state, ["--kafka", kafka.bootstrap])
        bridge.start()
        mesh.publish(50)
        mesh.wait_delivered()
        assert bridge.stop() == 0
        status, verdict = audited(bridge, "--kafka", kafka.bootstrap)
        assert status == 0
        assert (verdict["escalations"]["present"], verdict["events"]["present"]) == (50, 100)
        assert verdict["events"]["repeated"] == verdict["events"]["missing"] == verdict["foreign"] == 0
        assert [stream["stream"] for stream in verdict["streams"]] == sorted(STREAMS)


def test_a_mesh_that_does_not_record_events(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIGIL_BRIDGE__KAFKA__CONNECT_TIMEOUT_S", "2")
    monkeypatch.setenv("VIGIL_BRIDGE__FORWARD", "[]")
    with MockKafka("vigil.escalations") as kafka:
        bridge = Bridge(mesh.url, mesh.state, ["--kafka", kafka.bootstrap])
        bridge.start()
        mesh.publish(3)
        wait_until(lambda: mesh.detector.statistics().outbox_rows == 3, what="the receipts of the escalations")
        assert bridge.stop() == 0
        status, verdict = audited(bridge, "--kafka", kafka.bootstrap)
        assert status == 0
        assert (verdict["escalations"]["present"], verdict["events"]["waiting"]) == (3, 6)
