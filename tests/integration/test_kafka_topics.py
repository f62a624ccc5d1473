"""Topics of a real Kafka: made as they must be, or told what is wrong with them; and states in a compacted one."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping
from pathlib import Path

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined] # its stubs forget them
    AclOperation,
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from bridge.kafka import KafkaSink, KafkaStatusWriter, TopicBook, read_event_ids
from bridge.kafka.topics import TopicNeed
from bridge.ledger import Ledger
from bridge.sink import ESCALATIONS, EVENTS, Record, StoredAt
from bridge.status_feed import HEALTH, STATES, Status
from broker.messages import CameraState, decode_json, encode_json
from broker.topics import CAMERA_STATE, MODEL, NODE_HEALTH
from config.errors import PermanentError
from config.outside import KafkaSecurity, KafkaTopics
from config.settings import KafkaSettings
from tests.support.kafka import Kafka, KafkaServer
from tests.support.messages import camera_state
from tests.support.waiting import wait_until
from tests.unit.bridge.records import record

pytestmark = pytest.mark.timeout(180)
TIMEOUT_S = 60.0


def settings_of(kafka: Kafka, **topics: str) -> KafkaSettings:
    """Topics of the test's own."""
    name = f"t.{uuid.uuid4().hex[:8]}"
    names = {line: f"{name}.{line}" for line in ("escalation", "state", "health", "dead_letters", "ledger")}
    names |= dict.fromkeys(("motion", "track", "clip"), f"{name}.events")
    return KafkaSettings(bootstrap=kafka.bootstrap, topics=KafkaTopics(**(names | topics)), connect_timeout_s=TIMEOUT_S)


def admin_of(kafka: Kafka) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 2})


def make(kafka: Kafka, topic: str, **config: str) -> None:
    wanted = NewTopic(topic, 1, 1, config={name.replace("_", "."): value for name, value in config.items()})
    admin = admin_of(kafka)
    admin.create_topics([wanted], operation_timeout=TIMEOUT_S)[topic].result(TIMEOUT_S)


def config_of(kafka: Kafka, topic: str) -> Mapping[str, str]:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    admin = admin_of(kafka)
    entries = admin.describe_configs([resource], request_timeout=TIMEOUT_S)[resource].result(TIMEOUT_S)
    return {name: entry.value or "" for name, entry in entries.items()}


def book(settings: KafkaSettings) -> TopicBook:
    return TopicBook(settings, site="home", lines=(*ESCALATIONS, *EVENTS))


def test_missing_topics_are_made_as_they_must_be(kafka: Kafka) -> None:
    settings = settings_of(kafka)
    book(settings).ensure()
    made = {settings.topics.escalation, settings.topics.motion, settings.topics.dead_letters}
    assert made <= kafka.topics()
    for topic in made:
        config = config_of(kafka, topic)
        assert (config["cleanup.policy"], config["max.message.bytes"]) == ("delete", str(2 * 1024 * 1024))
    book(settings).ensure()


def test_many_bridges_may_make_them_at_once(kafka: Kafka) -> None:
    settings = settings_of(kafka)
    ends: list[Exception] = []

    def ensure() -> None:
        try:
            book(settings).ensure()
        except PermanentError as error:
            ends.append(error)

    threads = [threading.Thread(target=ensure) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends == []


def test_a_topic_that_may_not_be_made_says_how_somebody_else_makes_it(kafka: Kafka) -> None:
    settings = settings_of(kafka, escalation="..")
    with pytest.raises(PermanentError) as refused:
        book(settings).ensure()
    for part in (
        "has no topic '..'",
        "kafka-topics.sh",
        "--config max.message.bytes=2097152",
        "bridge.kafka.topics.escalation",
    ):
        assert part in str(refused.value)
    with pytest.raises(PermanentError, match="has no topic"):
        list(read_event_ids(settings_of(kafka)))


def test_a_compacted_topic_of_events_is_refused_with_the_command_that_cures_it(kafka: Kafka) -> None:
    settings = settings_of(kafka)
    make(kafka, settings.topics.escalation, cleanup_policy="compact")
    with pytest.raises(PermanentError) as refused:
        book(settings).ensure()
    assert "kafka-configs.sh" in str(refused.value)
    assert f"--entity-name {settings.topics.escalation} --add-config cleanup.policy=delete" in str(refused.value)


def test_a_topic_that_takes_nothing_is_refused(kafka: Kafka) -> None:
    settings = settings_of(kafka)
    make(kafka, settings.topics.escalation, min_insync_replicas="2")
    with pytest.raises(PermanentError, match=r"min\.insync\.replicas=2 and 1 replicas.*kafka-configs\.sh"):
        book(settings).ensure()


def test_smaller_faults_are_said_and_do_not_end_it(kafka: Kafka, capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_of(kafka)
    make(kafka, settings.topics.escalation, max_message_bytes="10000")
    make(kafka, settings.topics.state)
    state = TopicNeed(settings.topics.state, "bridge.kafka.topics.state", "compact")
    TopicBook(settings, site="home", lines=ESCALATIONS, more=[state]).ensure()
    said = capsys.readouterr().out
    assert "kafka.topic_small" in said
    assert "max.message.bytes=2097152" in said
    assert "kafka.topic_forgets" in said
    assert "cleanup.policy=compact" in said


def test_one_topic_is_not_both_compacted_and_not(kafka: Kafka) -> None:
    settings = settings_of(kafka)
    both = TopicNeed(settings.topics.escalation, "bridge.kafka.topics.state", "compact")
    with pytest.raises(PermanentError, match=r"topics\.escalation and bridge\.kafka\.topics\.state are both"):
        TopicBook(settings, site="home", lines=ESCALATIONS, more=[both]).ensure()


def test_a_topic_that_we_may_not_see_is_told_apart_from_none(kafka_server: KafkaServer) -> None:
    doors = kafka_server.security
    security = KafkaSecurity.model_validate(
        {"protocol": "sasl_plaintext", "mechanism": "PLAIN", "username": doors.user, "password": doors.password}
    )
    settings = settings_of(kafka_server).model_copy(
        update={"bootstrap": doors.bootstrap("sasl_plaintext"), "security": security}
    )
    make(kafka_server, settings.topics.escalation)
    everything = TopicBook(settings, site="home", lines=ESCALATIONS)
    kafka_server.deny(settings.topics.escalation, operation=AclOperation.DESCRIBE)

    def is_refused() -> bool:
        try:
            everything.ensure()
        except PermanentError as error:
            assert "kafka-acls.sh" in str(error)  # noqa: PT017 - until then it may be let in
            return True
        return False

    wait_until(is_refused, timeout_s=60, what="the refusal")


def test_a_camera_has_a_topic_of_its_own_from_its_first_record(kafka: Kafka, tmp_path: Path) -> None:
    settings = settings_of(kafka, escalation=f"t.{uuid.uuid4().hex[:8]}.{{site}}.{{camera}}")
    stored: list[StoredAt] = []
    sink = KafkaSink(settings, site="home", ledger=Ledger(tmp_path / "ledger.db"))
    sink.open(lambda reported: stored.extend(place for _, place in reported))
    try:
        sent: list[Record] = [record(1, camera="yard"), record(2, camera="door"), record(3, camera="yard")]

        def written() -> bool:
            del sent[: sink.write(sent)]
            return not sent

        wait_until(written, timeout_s=60, what="room")
        wait_until(lambda: len(stored) == 3, timeout_s=60, what="three reports")
    finally:
        sink.close(1.0)
    names = [settings.topics.escalation.format(site="home", camera=camera) for camera in ("yard", "door")]
    assert [len(kafka.consume(name)) for name in names] == [2, 1]
    assert config_of(kafka, names[0])["max.message.bytes"] == str(2 * 1024 * 1024)


def test_states_stay_and_health_passes(kafka: Kafka) -> None:
    settings = settings_of(kafka)
    writer = KafkaStatusWriter(settings, site="home", lines=(*STATES, *HEALTH))
    writer.open()
    assert config_of(kafka, settings.topics.state)["cleanup.policy"] == "compact"
    assert config_of(kafka, settings.topics.health)["cleanup.policy"] == "delete"
    yard, model = CAMERA_STATE.at("home", camera="yard"), MODEL.at("home", name="gpu")
    health = NODE_HEALTH.at("home", node="node-1", role="edge")
    payload = encode_json(camera_state())
    at = "2026-01-01T12:00:00.000000Z"
    sent = [Status(yard, payload, at), Status(model, b"{}", ""), Status(model, b"", ""), Status(health, b"{}", at)]
    assert writer.write(sent) == 4
    arrived = 0

    def all_arrived() -> bool:
        nonlocal arrived
        count, failed = writer.settle()
        assert failed == []
        arrived += count
        return arrived == 4

    wait_until(all_arrived, timeout_s=60, what="four records")
    writer.close(1.0)

    found = {(item.key, item.payload): dict(item.headers) for item in kafka.consume(settings.topics.state)}
    assert set(found) == {
        (b"home/camera/yard/state", payload),
        (b"home/model/gpu", b"{}"),
        (b"home/model/gpu", None),  # a tombstone: taken back
    }
    headers = found[b"home/camera/yard/state", payload]
    assert len(headers.pop("ce_id") or b"") == 32
    assert headers == {
        "ce_specversion": b"1.0",
        "ce_type": b"io.vigil.state.v1",
        "ce_source": b"/vigil/home",
        "ce_subject": b"camera/yard/state",
        "ce_time": at.encode(),
        "ce_dataschema": b"urn:vigil:schema:CameraState:1",
        "content-type": b"application/json",
    }
    assert decode_json(CameraState, payload, max_bytes=65_536) == camera_state()
    (said,) = kafka.consume(settings.topics.health)
    assert (said.key, said.headers["ce_source"]) == (b"home/node/node-1/edge/health", b"/vigil/home/node-1.edge")


def test_a_cluster_without_room_for_transactions_says_so(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """One broker and a factor of 3, which is what a cluster has that nobody has configured."""
    settings = settings_of(kafka).model_copy(update={"mode": "exactly-once"})
    book(settings).ensure()  # this one has a factor of 1
    monkeypatch.setattr("bridge.kafka.topics._TRANSACTIONS", "nobody-has-made-it-yet")
    monkeypatch.setattr("bridge.kafka.topics._FACTOR", "num.network.threads")  # stands for it: 3
    with pytest.raises(PermanentError, match=r"exactly-once: the cluster has 1 brokers.*at-least-once"):
        book(settings).ensure()
