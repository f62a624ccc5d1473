"""The bridge as a process, between a real Mosquitto and its journal, while things die."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bridge.journal import JournalReader
from broker import Bus, Delivery, connect, listen
from broker.messages import Evidence, NodeHealth, NodeStatus, Receipt, Receipts, encode_json
from broker.topics import CAMERA_ESCALATION, NODE_HEALTH, NODE_STATUS, RECEIPT, Topic
from tests.integration.bridge_process import Bridge, settings_for, wait_delivered
from tests.integration.mock_kafka import MockKafka
from tests.support.messages import escalation, jpeg
from tests.support.mosquitto import Mosquitto
from tests.support.ports import free_port
from tests.support.waiting import wait_until

__all__ = ["Bridge"]

pytestmark = pytest.mark.timeout(120)

YARD = {"camera": "yard"}


@pytest.fixture
def bridge(mosquitto: Mosquitto, tmp_path: Path) -> Iterator[Bridge]:
    made = Bridge(mosquitto.url, tmp_path / "state")
    yield made
    made.close()


@pytest.fixture
def detector(mosquitto: Mosquitto, tmp_path: Path) -> Iterator[Bus]:
    """Somebody who raises escalations, with an outbox where the bridge's machine keeps them."""
    bus = connect(settings_for(mosquitto.url, tmp_path / "state"), "detector", with_outbox=True)
    bus.start()
    assert bus.wait_connected(30)
    yield bus
    bus.close(drain_s=0)


def place(origin: str = "node-1.detector") -> Topic:
    return CAMERA_ESCALATION.at("home", origin=origin, **YARD)


def raise_many(bus: Bus, count: int, meanwhile: Callable[[int], None] = lambda _raised: None) -> None:
    """Raise escalations with a picture, some 500 a second."""
    pause = threading.Event()
    picture = jpeg()
    evidence = Evidence(content_type="image/jpeg", sha256="0" * 64, width=64, height=48, data=picture)
    for raised in range(1, count + 1):
        bus.publish_event(place(), lambda event_id: escalation(event_id, evidence=(evidence,)))
        meanwhile(raised)
        pause.wait(0.002)


def assert_all_once(bridge: Bridge, count: int) -> None:
    assert sorted(bridge.stored()) == list(range(1, count + 1))
    audit = bridge.ask("audit", "--json")
    verdict = json.loads(audit.stdout)
    assert audit.returncode == 0
    numbers = {key: verdict["escalations"][key] for key in ("raised", "present", "waiting", "missing", "repeated")}
    assert numbers == {"raised": count, "present": count, "waiting": 0, "missing": 0, "repeated": 0}


def test_a_bridge_that_is_killed_again_and_again_has_every_escalation_once(bridge: Bridge, detector: Bus) -> None:
    bridge.start()

    def die_now_and_then(raised: int) -> None:
        if raised in (200, 500, 800):
            wait_until(lambda: len(bridge.stored()) > raised - 150, what="some progress")
            bridge.kill()
        if raised in (250, 550, 850):
            bridge.start()

    raise_many(detector, 1000, die_now_and_then)
    wait_delivered(detector)
    assert_all_once(bridge, 1000)


def test_a_broker_that_is_killed_and_forgets_loses_nothing(bridge: Bridge, detector: Bus, mosquitto: Mosquitto) -> None:
    bridge.start()

    def broker_dies(raised: int) -> None:
        if raised == 200:
            mosquitto.kill()
        if raised == 300:
            mosquitto.start()

    raise_many(detector, 500, broker_dies)
    wait_delivered(detector)
    assert_all_once(bridge, 500)


def test_what_was_raised_while_no_bridge_was_there_comes_afterwards(bridge: Bridge, detector: Bus) -> None:
    raise_many(detector, 300)
    bridge.start()
    wait_delivered(detector)
    assert_all_once(bridge, 300)


def test_the_audit_tells_what_still_waits(bridge: Bridge, detector: Bus) -> None:
    bridge.start()
    raise_many(detector, 20)
    wait_delivered(detector)
    assert bridge.stop() == 0
    raise_many(detector, 3)
    audit = bridge.ask("audit")
    assert audit.returncode == 0
    assert audit.stdout.splitlines()[-1] == "escalations: raised 23, stored 20, waiting 3, missing 0, repeated 0"


def test_the_audit_tells_what_is_missing(bridge: Bridge, detector: Bus) -> None:
    import sqlite3

    bridge.start()
    raise_many(detector, 20)
    wait_delivered(detector)
    bridge.stop()
    journal = sqlite3.connect(bridge.state / "journal.db")
    with journal:
        journal.execute("DELETE FROM escalation WHERE seq IN (4, 5, 9)")
    journal.close()
    audit = bridge.ask("audit")
    assert audit.returncode == 1
    assert audit.stdout.splitlines()[-1] == "escalations: raised 20, stored 17, waiting 0, missing 3, repeated 0"
    assert ": 4-5, 9" in audit.stdout


def test_the_orderly_end_says_so(bridge: Bridge, mosquitto: Mosquitto, detector: Bus) -> None:
    statuses: list[str] = []
    reports: list[NodeHealth] = []

    def on_message(delivery: Delivery) -> None:
        if isinstance(delivery.content, NodeStatus):
            statuses.append(delivery.content.state)
        elif isinstance(delivery.content, NodeHealth):
            reports.append(delivery.content)

    watcher = listen(settings_for(mosquitto.url, bridge.state), "watch")
    watcher.subscribe(NODE_STATUS, on_message, role="bridge")
    watcher.subscribe(NODE_HEALTH, on_message, role="bridge")
    watcher.start()
    assert watcher.wait_connected(30)
    bridge.start()
    raise_many(detector, 50)
    wait_delivered(detector)
    assert bridge.stop() == 0
    wait_until(lambda: statuses[-1:] == ["offline"], what="the goodbye")
    assert "online" in statuses
    last = reports[-1]
    assert (last.counts["stored"], last.counts["receipts"], last.counts["gaps"]) == (50, 50, 0)
    assert last.queues["bridge"] == 0
    assert 0 < last.counts["stored_p50_us"] <= last.counts["stored_p99_us"]
    watcher.close()
    wait_until(lambda: bridge.heard("bridge.stopped"), what="the last log line")
    assert "Traceback" not in json.dumps(bridge.said)


def test_a_stolen_node_settles_nothing_of_another(bridge: Bridge, mosquitto: Mosquitto) -> None:
    receipts: list[str] = []
    bus = listen(settings_for(mosquitto.url, bridge.state), "thief")
    bus.subscribe(RECEIPT, lambda delivery: receipts.append(str(delivery.topic)))
    bus.start()
    assert bus.wait_connected(30)
    bridge.start()
    forged = encode_json(escalation("node-2.detector:e1:1"))

    def is_rejected() -> object:
        # Again and again: what comes before the bridge has subscribed is for nobody.
        bus._link.send(bus._outbound(place("node-1.detector"), forged))
        return bridge.heard("bus.rejected")

    wait_until(is_rejected, what="the reject")
    assert bridge.stored() == []
    assert receipts == []
    bus.close()


def test_the_list_and_its_pictures(bridge: Bridge, detector: Bus, tmp_path: Path) -> None:
    from hashlib import sha256

    picture = jpeg(320, 240)
    evidence = Evidence(
        content_type="image/jpeg", sha256=sha256(picture).hexdigest(), width=320, height=240, data=picture
    )
    forged = Evidence(content_type="image/jpeg", sha256="0" * 64, width=320, height=240, data=picture)
    bridge.start()
    detector.publish_event(place(), lambda event_id: escalation(event_id, evidence=(evidence, forged)))
    detector.publish_event(place(), lambda event_id: escalation(event_id, severity="critical", summary="\x1b[2Jfire"))
    wait_delivered(detector)
    listed = bridge.ask("escalations", "--save-pictures", str(tmp_path / "pictures"))
    assert listed.returncode == 0
    first, second = listed.stdout.splitlines()
    assert "person at yard" in first
    assert "fire" in second
    assert "\x1b" not in second.replace("\x1b[31m", "").replace("\x1b[0m", "")
    (saved,) = (tmp_path / "pictures").iterdir()
    assert saved.name.startswith("20260101T120000Z_yard_node-1.detector-")
    assert saved.read_bytes() == picture
    assert "picture 2 is not what was sent" in listed.stderr
    (only,) = bridge.ask("escalations", "--json", "--severity", "critical").stdout.splitlines()
    assert json.loads(only)["summary"] == "\x1b[2Jfire"
    assert bridge.ask("escalations", "--since", "10m").stdout == ""
    assert bridge.ask("escalations", "--since", "yesterday").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--journal", "{text}"], 1, "move it away"),
        (["--journal", "{text}/journal.db"], 1, "cannot be made"),
        (["--kafka", "127.0.0.1:{port}"], 69, "bridge.kafka.bootstrap"),
        (["--kafka", "localhost"], 78, "bridge.kafka.bootstrap"),
        (["--topic", "escalations"], 78, "bridge.kafka.bootstrap"),
        (["--kafka", "127.0.0.1:9092", "--journal", "x.db"], 2, "give one"),
        (["--role", "The Bridge"], 2, "is not a role"),
    ],
)
def test_what_cannot_work_is_told_in_one_line(
    arguments: list[str], status: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if status == 69:
        monkeypatch.setenv("VIGIL_BRIDGE__KAFKA__CONNECT_TIMEOUT_S", "0.5")
    text = tmp_path / "text"
    text.write_text("no journal\n" * 100)
    given = [argument.format(text=text, port=free_port()) for argument in arguments]
    bridge = Bridge(f"mqtt://127.0.0.1:{free_port()}", tmp_path / "state")
    ended = bridge.ask("bridge", *given)
    assert ended.returncode == status, ended
    assert message in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    assert "rdkafka" not in ended.stderr


def test_into_kafka_and_out_of_the_audit(
    mosquitto: Mosquitto, detector: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIGIL_BRIDGE__KAFKA__CONNECT_TIMEOUT_S", "2")
    with MockKafka("vigil.escalations", "vigil.events") as kafka:
        bridge = Bridge(mosquitto.url, tmp_path / "state", ["--kafka", kafka.bootstrap])
        bridge.start()
        raise_many(detector, 200)
        wait_delivered(detector)
        assert bridge.stop() == 0
        audit = bridge.ask("audit", "--kafka", kafka.bootstrap, "--json")
        sums = json.loads(audit.stdout)["escalations"]
        assert (sums["raised"], sums["present"], sums["missing"], sums["repeated"]) == (200, 200, 0, 0)
        assert audit.returncode == 0


_WRITER = """
import sys
from pathlib import Path
from bridge.journal import Journal
from tests.unit.bridge.records import record

journal = Journal(Path(sys.argv[1]))
journal.open(lambda stored: [print(item.seq, flush=True) for item, _ in stored])
seq = 1
while True:
    journal.write([record(seq + step, summary="x" * 2000) for step in range(7)])
    seq += 7
"""


@pytest.mark.parametrize("seed", range(4))
def test_everything_a_killed_journal_reported_is_in_the_file(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    last = random.Random(seed).randrange(10, 2000)
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True, cwd=root
    ) as writer:
        assert writer.stdout is not None
        reported = []
        for line in writer.stdout:
            reported.append(int(line))
            if len(reported) == last:
                writer.kill()
    reader = JournalReader(path)
    stored = [seq for _, _, _, seq in reader.identities()]
    reader.close()
    assert len(reported) >= last
    assert stored == list(range(1, len(stored) + 1))
    assert set(reported) <= set(stored)


def test_a_receipt_says_where_it_landed(bridge: Bridge, mosquitto: Mosquitto, detector: Bus) -> None:
    receipts: list[Receipt] = []

    def on_receipt(delivery: Delivery) -> None:
        assert isinstance(delivery.content, Receipts)
        receipts.extend(delivery.content.receipts)

    detector.subscribe(RECEIPT, on_receipt, origin=detector.origin)
    bridge.start()
    sent = detector.publish_event(place(), escalation)
    wait_until(lambda: receipts, what="the receipt")
    assert (receipts[0].event_id, receipts[0].sink, receipts[0].location) == (sent, "journal", "journal/escalation/1")
