"""The mode exactly-once against a real Kafka: fencing, crashes around the commit, restarts, dead letters."""

from __future__ import annotations

import json
import os
import random
import textwrap
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined] # its stubs forget it

from bridge.kafka import ExactKafkaSink, read_dead_letters, read_event_ids, read_written
from bridge.kafka.ledger_topic import ensure_ledger_topic, ledger_key
from bridge.kafka.written import Written
from bridge.ledger import Ledger
from bridge.shards import shard_of
from bridge.sink import Record, StoredAt
from broker import connect
from broker.messages import Evidence
from broker.topics import CAMERA_ESCALATION
from config.errors import PermanentError
from config.outside import KafkaSecurity, KafkaTopics
from config.settings import KafkaSettings
from tests.integration.bridge_process import Bridge, settings_for, wait_delivered
from tests.support.kafka import Kafka, KafkaServer
from tests.support.messages import escalation
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import wait_until
from tests.unit.bridge.records import event, record

pytestmark = pytest.mark.timeout(180)

HOME = "home"


class Reports:
    """What the sink said was durable."""

    def __init__(self) -> None:
        self.places: list[tuple[str, StoredAt]] = []

    def __call__(self, stored: Sequence[tuple[Record, StoredAt]]) -> None:
        self.places += [(item.event_id, place) for item, place in stored]

    def wait(self, count: int) -> None:
        wait_until(lambda: len(self.places) >= count, timeout_s=60, what=f"{count} reports")
        assert len(self.places) == count

    def kinds(self) -> Counter[tuple[str, bool]]:
        return Counter((place.sink, place.repeated) for _, place in self.places)


class Sinks:
    """Bridges of one site, each with a disk of its own: all that they share is Kafka."""

    def __init__(self, folder: Path, settings: KafkaSettings, site: str) -> None:
        self.settings = settings
        self.site = site
        self.fenced: list[int] = []
        self._folder = folder
        self._open: list[ExactKafkaSink] = []

    def make(self, *, shards: int = 1, gain: bool = True) -> tuple[ExactKafkaSink, Reports]:
        reports = Reports()

        def on_fenced(shard: int) -> None:
            self.fenced.append(shard)
            sink.lose(shard)

        ledger = Ledger(self._folder / f"{len(self._open)}.db")
        sink = ExactKafkaSink(self.settings, site=self.site, ledger=ledger, shards=shards, on_fenced=on_fenced)
        sink.open(reports)
        self._open.append(sink)
        if gain:
            sink.gain(0)
            wait_until(lambda: sink.ready(0), timeout_s=60, what="the shard")
        return sink, reports

    def close(self) -> None:
        for sink in self._open:
            sink.close(0.0)


@pytest.fixture
def settings(kafka: Kafka) -> KafkaSettings:
    run = uuid.uuid4().hex[:8]
    events = f"events-{run}"
    topics = KafkaTopics(
        escalation=f"escalations-{run}",
        motion=events,
        track=events,
        clip=events,
        dead_letters=f"dead-{run}",
        ledger=f"ledger-{run}",
    )
    return KafkaSettings(bootstrap=kafka.bootstrap, mode="exactly-once", topics=topics)


@pytest.fixture
def sinks(tmp_path: Path, settings: KafkaSettings) -> Iterator[Sinks]:
    made = Sinks(tmp_path, settings, f"site-{uuid.uuid4().hex[:8]}")
    yield made
    made.close()


def write_all(sink: ExactKafkaSink, records: Sequence[Record]) -> None:
    left = list(records)

    def written() -> bool:
        del left[: sink.write(left)]
        return not left

    wait_until(written, timeout_s=60, what="room")


def sequences_in(settings: KafkaSettings) -> Counter[int]:
    """How often a reader of committed records sees each escalation, by its sequence."""
    return Counter(int(event_id.rsplit(":", 1)[1]) for _, event_id in read_event_ids(settings))


def test_a_successor_on_another_machine_writes_nothing_again(sinks: Sinks, settings: KafkaSettings) -> None:
    first, reports = sinks.make()
    write_all(first, [record(seq) for seq in range(1, 21)])
    reports.wait(20)
    assert all(place.location.startswith(f"{settings.topics.escalation}/") for _, place in reports.places)
    first.close(5.0)
    second, later = sinks.make()
    write_all(second, [record(seq) for seq in range(11, 31)])
    later.wait(20)
    assert later.kinds() == {("kafka", True): 10, ("kafka", False): 10}
    assert sequences_in(settings) == Counter(range(1, 31))
    assert {seq for *_, seq in read_written(settings)} == set(range(1, 31))
    assert second.gaps() == Counter()


def test_gaps_are_those_of_the_ledger(sinks: Sinks) -> None:
    sink, reports = sinks.make()
    write_all(sink, [event(1), event(5), record(2), record(3)])
    reports.wait(4)
    assert sink.gaps() == {("camera_motion", "node-1.edge"): 3}


def test_the_same_id_with_another_payload_is_written_too(sinks: Sinks, settings: KafkaSettings) -> None:
    sink, reports = sinks.make()
    write_all(sink, [record(1, summary="first"), record(1, summary="second"), record(1, summary="first")])
    reports.wait(3)
    assert reports.kinds() == {("kafka", False): 2, ("kafka", True): 1}
    assert sequences_in(settings) == {1: 2}


def test_whoever_was_fenced_reports_nothing_and_writes_nothing(sinks: Sinks, settings: KafkaSettings) -> None:
    old, before = sinks.make()
    write_all(old, [record(1)])
    before.wait(1)
    new, after = sinks.make()
    write_all(old, [record(2), record(3)])
    wait_until(lambda: sinks.fenced, timeout_s=60, what="word of the fence")
    write_all(new, [record(seq) for seq in range(1, 4)])
    after.wait(3)
    assert sinks.fenced == [0]
    assert len(before.places) == 1
    assert after.kinds() == {("kafka", True): 1, ("kafka", False): 2}
    assert sequences_in(settings) == Counter([1, 2, 3])


def test_what_a_dead_bridge_did_not_commit_is_not_there(sinks: Sinks, settings: KafkaSettings, kafka: Kafka) -> None:
    first, reports = sinks.make()
    write_all(first, [record(1)])
    reports.wait(1)
    first.close(5.0)
    dead = Producer({"bootstrap.servers": settings.bootstrap, "transactional.id": f"vigil-{sinks.site}-0"})
    dead.init_transactions(30)
    dead.begin_transaction()
    lost = record(2)
    dead.produce(settings.topics.escalation, lost.payload, headers=[("ce_id", lost.event_id.encode())])
    for block, value in Written().note([lost]).items():
        dead.produce(settings.topics.ledger, value, ledger_key(sinks.site, 0, block), partition=0)
    assert dead.flush(30) == 0
    second, later = sinks.make()
    write_all(second, [lost])
    later.wait(1)
    assert later.kinds() == {("kafka", False): 1}
    assert sequences_in(settings) == Counter([1, 2])
    assert {seq for *_, seq in read_written(settings)} == {1, 2}


def test_one_record_that_is_too_large_takes_no_other_with_it(sinks: Sinks, settings: KafkaSettings) -> None:
    admin = AdminClient({"bootstrap.servers": settings.bootstrap})
    small = NewTopic(settings.topics.escalation, 1, 1, config={"max.message.bytes": "20000"})
    admin.create_topics([small])[settings.topics.escalation].result(30)
    noise = random.Random(1).randbytes(100_000)  # a batch is measured compressed
    picture = Evidence(content_type="image/jpeg", sha256="0" * 64, width=1, height=1, data=noise)
    sent = [record(1), record(2, evidence=(picture,)), *(record(seq) for seq in range(3, 13))]
    first, reports = sinks.make()
    write_all(first, sent)
    reports.wait(12)
    assert reports.kinds() == {("kafka", False): 11, ("dead-letters", False): 1}
    assert sequences_in(settings) == Counter({1, *range(3, 13)})
    first.close(5.0)
    second, later = sinks.make()
    write_all(second, sent)
    later.wait(12)
    assert all(place.repeated for _, place in later.places), "it is a dead letter once"
    assert [event_id for _, event_id in read_dead_letters(settings)] == [sent[1].event_id]


def test_a_topic_that_is_refused_holds_up_the_others_for_a_while_only(
    kafka_server: KafkaServer, settings: KafkaSettings, tmp_path: Path
) -> None:
    doors = kafka_server.security
    login = {"protocol": "sasl_plaintext", "mechanism": "PLAIN", "username": doors.user, "password": doors.password}
    changes = {"bootstrap": doors.bootstrap("sasl_plaintext"), "security": KafkaSecurity.model_validate(login)}
    denied = settings.model_copy(update={**changes, "refusal_s": 0.0})
    made = Sinks(tmp_path, denied, f"site-{uuid.uuid4().hex[:8]}")
    try:
        sink, reports = made.make()
        kafka_server.deny(settings.topics.escalation)
        sent = 0

        def refused() -> bool:
            # A right that is taken away is gone soon, not at once.
            nonlocal sent
            sent += 1
            write_all(sink, [record(sent)])
            reports.wait(sent)
            return reports.places[-1][1].sink == "dead-letters"

        wait_until(refused, timeout_s=60, what="the refusal")
        reports.places.clear()
        write_all(sink, [record(1001), event(1), record(1002), event(2)])
        reports.wait(4)
        assert reports.kinds() == {("dead-letters", False): 2, ("kafka", False): 2}
        letters = {event_id for _, event_id in read_dead_letters(settings)}
        assert letters == {record(seq).event_id for seq in (sent, 1001, 1002)}
    finally:
        made.close()
    assert Counter(stream for stream, _ in read_event_ids(settings))["camera_motion"] == 2


def test_a_ledger_topic_that_forgets_is_not_used(settings: KafkaSettings) -> None:
    admin = AdminClient({"bootstrap.servers": settings.bootstrap})
    ledger = settings.topics.ledger
    admin.create_topics([NewTopic(ledger, 1, 1, config={"cleanup.policy": "delete"})])[ledger].result(30)
    with pytest.raises(PermanentError, match=r"cleanup\.policy=compact"):
        ensure_ledger_topic(settings, 1)


def test_a_shard_that_is_not_ours_yet_waits_and_one_that_is_no_more_does_not(sinks: Sinks) -> None:
    cameras = {shard_of(f"camera-{number}", 2): f"camera-{number}" for number in range(20)}
    sink, reports = sinks.make(shards=2)
    ours, theirs = (record(1, camera=cameras[0]), record(2, camera=cameras[1]))
    assert sink.write([theirs, ours]) == 0
    assert sink.write([ours, theirs]) == 1
    reports.wait(1)
    sink.gain(1)
    write_all(sink, [theirs])
    reports.wait(2)
    sink.lose(1)
    assert sink.write([record(3, camera=cameras[1])]) == 1
    assert not sink.ready(1)


# --- the bridge as a process, killed around its commit ----------------------------------------------------------------

DEATHS = {
    "before the commit": "ShardWriter._produce = after(ShardWriter._produce)",
    "after the commit": "ShardWriter._note_success = before(ShardWriter._note_success)",
}
DYING = textwrap.dedent(
    """
    import os, sys
    from bridge.kafka.shard_writer import ShardWriter
    from console.cli import main

    calls = 0

    def due():
        global calls
        calls += 1
        return calls == 3

    def before(step):
        return lambda *arguments: os._exit(9) if due() else step(*arguments)

    def after(step):
        def stepped(writer, producer, *arguments):
            step(writer, producer, *arguments)
            if due():
                assert producer.flush(30) == 0
                os._exit(9)
        return stepped

    {death}
    sys.exit(main())
    """
)


@pytest.mark.parametrize("point", DEATHS)
def test_a_bridge_that_dies_at_its_commit_writes_each_once(
    point: str, mosquitto: Mosquitto, settings: KafkaSettings, tmp_path: Path
) -> None:
    site_file = tmp_path / "vigil.yaml"
    site = f"site-{uuid.uuid4().hex[:8]}"
    kafka = settings.model_dump_json(exclude_unset=True)
    site_file.write_text(f"site: {site}\nbridge: {{kafka: {kafka}}}\n")
    state = tmp_path / "state"
    options = ("--config", str(site_file))
    sender_settings = settings_for(mosquitto.url, state).model_copy(update={"site": site})
    sender = connect(sender_settings, "detector", with_outbox=True)
    sender.start()
    place = CAMERA_ESCALATION.at(site, camera="yard", origin=sender.origin)
    dying = Bridge(mosquitto.url, state, program=("-c", DYING.format(death=DEATHS[point]), *options))
    dying.start()

    def one_more_or_dead() -> bool:
        # One at a time: the third transaction is the one that it dies of.
        if dying.runs and not sender.statistics().outbox_rows:
            sender.publish_event(place, escalation)
        return not dying.runs

    wait_until(one_more_or_dead, timeout_s=60, what="its death")
    assert dying.wait() == 9
    bridge = Bridge(mosquitto.url, state, program=("-m", "console", *options))
    bridge.start()
    wait_delivered(sender)
    sender.close()
    assert bridge.stop() == 0
    found: dict[str, Any] = json.loads(bridge.ask("audit", "--json").stdout)
    sums = found["escalations"]
    assert sums["raised"] == sums["present"] >= 2, os.linesep.join(map(str, bridge.said))
    assert (sums["missing"], sums["repeated"]) == (0, 0)
    assert found["ledger"] == {"written": sums["raised"], "unfound": 0}
