"""A site that begins with a journal and gets a Kafka later: what the journal has goes there, once."""

from __future__ import annotations

import json
import random
import sqlite3
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bridge.journal import Journal, JournalReader
from bridge.journal.expired import note_expired
from bridge.kafka import read_event_ids
from broker import connect
from broker.topics import CAMERA_ESCALATION
from config.outside import KafkaTopics
from config.settings import KafkaSettings
from tests.integration.bridge_process import Bridge, settings_for, wait_delivered
from tests.support.kafka import Kafka
from tests.support.messages import escalation
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import wait_until
from tests.unit.bridge.records import event, record

pytestmark = pytest.mark.timeout(180)


class Site:
    """One machine, its journal, and a Kafka whose topics are the test's own."""

    def __init__(self, url: str, kafka: Kafka, state: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
        name = f"drain-{uuid.uuid4().hex[:8]}"
        self.state = state
        topics = {"escalation": f"{name}.escalations", "ledger": f"{name}.ledger", "dead_letters": f"{name}.dead"}
        topics |= dict.fromkeys(("motion", "track", "clip"), f"{name}.events")
        for key, topic in topics.items():
            monkeypatch.setenv(f"VIGIL_BRIDGE__KAFKA__TOPICS__{key.upper()}", topic)
        monkeypatch.setenv("VIGIL_BRIDGE__KAFKA__MODE", mode)
        monkeypatch.setenv("VIGIL_BRIDGE__KAFKA__BOOTSTRAP", kafka.bootstrap)
        self.kafka = KafkaSettings(bootstrap=kafka.bootstrap, topics=KafkaTopics(**topics), connect_timeout_s=30)
        self.bridge = Bridge(url, state)

    def fill(self, rows: int) -> None:
        """So many escalations and as many events, as a bridge without a Kafka has written them."""
        journal = Journal(self.state / "journal.db")
        journal.open(lambda _stored: None)
        cameras = ("yard", "door", "gate")
        for start in range(1, rows + 1, 500):
            some = range(start, min(start + 500, rows + 1))
            journal.write([record(seq, camera=cameras[seq % 3]) for seq in some])
            journal.write([event(seq, camera=cameras[seq % 3]) for seq in some])
        journal.close()

    def waiting(self) -> int:
        """Rows that are not noted to be in Kafka."""
        with closing(JournalReader(self.state / "journal.db")) as reader:
            return sum(last - first + 1 for ranges in reader.undrained().values() for first, last in ranges)

    def in_kafka(self) -> Counter[tuple[str, str]]:
        return Counter(read_event_ids(self.kafka))

    def audited(self) -> dict[str, Any]:
        done = self.bridge.ask("audit", "--json")
        assert done.returncode == 0, done
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def wait_drained(self) -> None:
        wait_until(lambda: self.waiting() == 0, timeout_s=90, what="the end of the drain")


@pytest.fixture(params=["at-least-once", "exactly-once"])
def site(
    request: pytest.FixtureRequest, mosquitto: Mosquitto, kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    made = Site(mosquitto.url, kafka, tmp_path / "state", monkeypatch, request.param)
    yield made
    made.bridge.close()


def expected(rows: int) -> set[tuple[str, str]]:
    return {("camera_escalation", f"node-1.detector:e1:{seq}") for seq in range(1, rows + 1)} | {
        ("camera_motion", f"node-1.edge:m1:{seq}") for seq in range(1, rows + 1)
    }


def test_what_the_journal_has_goes_into_kafka_once(site: Site, mosquitto: Mosquitto) -> None:
    """And what is raised meanwhile goes there too, and does not wait."""
    site.fill(500)
    live = connect(settings_for(mosquitto.url, site.state, "node-2"), "detector", with_outbox=True)
    live.start()
    site.bridge.start()
    place = CAMERA_ESCALATION.at("home", camera="yard", origin=live.origin)
    raised = [live.publish_event(place, escalation) for _ in range(20)]
    wait_delivered(live)
    live.close(drain_s=0)
    site.wait_drained()
    wait_until(lambda: site.bridge.heard("drain.finished"), timeout_s=30, what="the word that it is done")
    assert site.bridge.heard("drain.started")["waiting"] == 1_000  # type: ignore[index]
    assert site.bridge.heard("drain.finished")["sent"] == 1_000  # type: ignore[index]
    found = site.in_kafka()
    assert found.keys() == expected(500) | {("camera_escalation", one) for one in raised}
    assert set(found.values()) == {1}
    sums = site.audited()
    assert (sums["escalations"]["present"], sums["escalations"]["missing"]) == (520, 0)
    assert (sums["events"]["present"], sums["events"]["waiting"], sums["events"]["missing"]) == (500, 0, 0)
    assert site.bridge.stop() == 0
    site.bridge.start()
    wait_until(lambda: site.bridge.heard("bridge.started"), timeout_s=30, what="the next bridge")
    assert site.bridge.stop() == 0
    assert site.bridge.heard("drain.started") is None
    assert site.in_kafka() == found


def test_a_drain_that_is_killed_again_and_again_goes_on(site: Site) -> None:
    site.fill(4_000)
    chance = random.Random(7)
    kills = 0
    site.bridge.start()
    while kills < 2 and (left := site.waiting()) > 500:
        some = left - chance.randrange(200, 3_000)
        wait_until(lambda limit=some: site.waiting() <= limit, timeout_s=60, what="progress")  # type: ignore[misc]
        site.bridge.kill()
        kills += 1
        site.bridge.start()
    assert kills
    site.wait_drained()
    found = site.in_kafka()
    assert found.keys() == expected(4_000)
    sums = site.audited()
    assert (sums["escalations"]["missing"], sums["events"]["missing"]) == (0, 0)
    if sums["ledger"]["written"]:
        assert set(found.values()) == {1}, "read_committed sees each once"
    repeated = sum(found.values()) - len(found)
    assert sums["escalations"]["repeated"] + sums["events"]["repeated"] == repeated


@pytest.mark.parametrize("site", ["at-least-once"], indirect=True)
def test_before_it_is_drained_it_waits_and_what_expired_is_not_missing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.fill(200)
    with closing(sqlite3.connect(site.state / "journal.db")) as db, db:
        gone = db.execute("SELECT stream, origin, epoch, seq FROM event WHERE id <= 50").fetchall()
        note_expired(db, gone)
        db.execute("DELETE FROM event WHERE id <= 50")
    monkeypatch.setenv("VIGIL_BRIDGE__DRAIN_JOURNAL", "false")
    site.bridge.start()
    wait_until(lambda: site.bridge.heard("bridge.started"), timeout_s=30, what="the bridge")
    assert site.bridge.stop() == 0
    sums = site.audited()
    assert (sums["escalations"]["waiting"], sums["events"]["waiting"], sums["events"]["expired"]) == (200, 150, 50)
    monkeypatch.setenv("VIGIL_BRIDGE__DRAIN_JOURNAL", "true")
    site.bridge.start()
    site.wait_drained()
    sums = site.audited()
    assert (sums["events"]["present"], sums["events"]["expired"], sums["events"]["missing"]) == (150, 50, 0)
    kept = site.bridge.ask("audit", "--journal", str(site.state / "journal.db"), "--json")
    assert json.loads(kept.stdout)["events"]["present"] == 150
    assert kept.returncode == 0
