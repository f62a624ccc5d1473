from __future__ import annotations

import json
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from confluent_kafka import Producer

from bridge.kafka import EVENT_TYPES, KafkaSink, TopicBook, read_event_ids
from bridge.kafka.dead_letters import dead_letters_in
from bridge.ledger import Ledger, read_quarantine
from bridge.sink import ESCALATIONS, EVENTS, Record, StoredAt
from broker.messages import Escalation, Evidence, decode_json
from config.errors import TransientError
from config.outside import KafkaTopics
from config.settings import KafkaSettings
from tests.integration.mock_kafka import INIT_PRODUCER_ID, PRODUCE, MockKafka
from tests.support.kafka import Kafka, KafkaServer
from tests.support.messages import jpeg
from tests.support.ports import free_port
from tests.support.waiting import wait_until
from tests.unit.bridge.records import event, record

pytestmark = pytest.mark.timeout(180)

NOT_LEADER = 6
MSG_SIZE_TOO_LARGE = 10
NOT_ENOUGH_REPLICAS = 19
TOPIC_AUTHORIZATION_FAILED = 29
OUT_OF_ORDER_SEQUENCE = 45
INVALID_RECORD = 87


def topics_of(escalations: str, events: str) -> KafkaTopics:
    return KafkaTopics(escalation=escalations, motion=events, track=events, clip=events)


class Reports:
    """What the sink said was durable, in the order in which it said so."""

    def __init__(self) -> None:
        self.places: list[tuple[str, StoredAt]] = []

    def __call__(self, stored: Sequence[tuple[Record, StoredAt]]) -> None:
        self.places += [(item.event_id, place) for item, place in stored]

    def wait(self, count: int, timeout_s: float = 60.0) -> None:
        wait_until(lambda: len(self.places) >= count, timeout_s=timeout_s, what=f"{count} reports")
        assert len(self.places) == count

    def sinks(self) -> dict[str, int]:
        return Counter(place.sink for _, place in self.places)


class Sinks:
    """Makes sinks that share one ledger file, as a bridge and its successors do."""

    def __init__(self, folder: Path) -> None:
        self.ledger_path = folder / "ledger.db"
        self._open: list[KafkaSink] = []

    def make(self, settings: KafkaSettings) -> tuple[KafkaSink, Reports]:
        reports = Reports()
        sink = KafkaSink(settings, site="home", ledger=Ledger(self.ledger_path))
        sink.open(reports)
        self._open.append(sink)
        return sink, reports

    def close(self) -> None:
        for sink in self._open:
            sink.close(0.0)


@pytest.fixture
def sinks(tmp_path: Path) -> Iterator[Sinks]:
    made = Sinks(tmp_path)
    yield made
    made.close()


def write_all(sink: KafkaSink, records: Sequence[Record]) -> None:
    """Write as the forwarder does: what finds no room is tried again."""
    left = list(records)

    def written() -> bool:
        del left[: sink.write(left)]
        return not left

    wait_until(written, timeout_s=60, what="room")


def records(first: int, last: int) -> list[Record]:
    return [record(seq) for seq in range(first, last + 1)]


# --- a mock cluster: errors on request ------------------------------------------------------------------------


@pytest.fixture
def mock() -> Iterator[tuple[MockKafka, KafkaSettings]]:
    with MockKafka("escalations", "events", "vigil.dead-letters") as cluster:
        yield (
            cluster,
            KafkaSettings(
                bootstrap=cluster.bootstrap, topics=topics_of("escalations", "events"), connect_timeout_s=0.5
            ),
        )


def ids_in(settings: KafkaSettings) -> list[str]:
    return [event_id or "?" for stream, event_id in read_event_ids(patient(settings)) if stream != "camera_motion"]


def patient(settings: KafkaSettings) -> KafkaSettings:
    return settings.model_copy(update={"connect_timeout_s": 10.0})


@pytest.fixture
def one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written together is one batch, also on a machine that is busy.

    The mock takes a batch whose predecessor it has just refused, and then calls that one a repeat; a real Kafka does
    not.
    """

    def with_patience(settings: dict[str, object]) -> Producer:
        return Producer({**settings, "linger.ms": 300})

    monkeypatch.setattr("bridge.kafka.sink.Producer", with_patience)


@pytest.mark.parametrize(
    "errors",
    [
        pytest.param((NOT_ENOUGH_REPLICAS, NOT_LEADER), id="retriable"),
        pytest.param((TOPIC_AUTHORIZATION_FAILED,), id="not-authorised-for-now"),
        pytest.param((OUT_OF_ORDER_SEQUENCE,), id="fatal"),
        pytest.param((INVALID_RECORD,), id="batch-refused-once"),
    ],
)
def test_errors_that_pass_lose_and_repeat_nothing(
    mock: tuple[MockKafka, KafkaSettings], sinks: Sinks, one_batch: None, errors: tuple[int, ...]
) -> None:
    cluster, settings = mock
    sink, reports = sinks.make(settings)
    write_all(sink, records(1, 20))
    reports.wait(20)
    cluster.answer_with_errors(PRODUCE, *errors)
    write_all(sink, records(21, 40))
    write_all(sink, records(41, 60))
    reports.wait(60)
    assert reports.sinks() == {"kafka": 60}
    sink.close(5.0)
    stored = ids_in(settings)
    # A refused batch goes again record by record; what the client library had queued behind it may be there first.
    if INVALID_RECORD in errors:
        stored.sort(key=lambda identity: int(identity.rsplit(":", 1)[1]))
    assert stored == [f"node-1.detector:e1:{seq}" for seq in range(1, 61)]


def test_one_bad_record_does_not_take_its_neighbours_with_it(
    mock: tuple[MockKafka, KafkaSettings], sinks: Sinks, one_batch: None
) -> None:
    cluster, settings = mock
    sink, reports = sinks.make(settings)
    write_all(sink, records(1, 1))
    reports.wait(1)
    cluster.answer_with_errors(PRODUCE, MSG_SIZE_TOO_LARGE, MSG_SIZE_TOO_LARGE)
    write_all(sink, records(2, 11))
    reports.wait(11)
    assert reports.sinks() == {"kafka": 10, "dead-letters": 1}
    assert len(set(ids_in(settings))) == 10
    assert read_quarantine(sinks.ledger_path) == []
    (letter,) = dead_letters_in(patient(settings))
    assert (letter.event_id, letter.code) == ("node-1.detector:e1:2", "MSG_SIZE_TOO_LARGE")
    assert (letter.topic, letter.value) == ("escalations", record(2).payload)


def test_a_quarantined_record_is_answered_and_not_produced_again(
    mock: tuple[MockKafka, KafkaSettings], sinks: Sinks
) -> None:
    cluster, settings = mock
    sink, reports = sinks.make(settings)
    cluster.answer_with_errors(PRODUCE, MSG_SIZE_TOO_LARGE, MSG_SIZE_TOO_LARGE)
    write_all(sink, records(1, 1))
    reports.wait(1)
    write_all(sink, records(1, 1))
    reports.wait(2)
    assert [place.sink for _, place in reports.places] == ["dead-letters", "kafka"]
    assert len(list(dead_letters_in(patient(settings)))) == 1
    assert [place.repeated for _, place in reports.places] == [False, True]


def test_kafka_away_holds_everything_back(mock: tuple[MockKafka, KafkaSettings], sinks: Sinks) -> None:
    cluster, settings = mock
    sink, reports = sinks.make(settings)
    write_all(sink, records(1, 5))
    reports.wait(5)
    cluster.go_down()
    write_all(sink, records(6, 50))
    wait_until(lambda: sink._away, what="the complaint")
    assert len(reports.places) == 5
    cluster.come_up()
    reports.wait(50)
    assert len(set(ids_in(settings))) == 50


def test_more_than_the_producer_holds_is_not_taken(mock: tuple[MockKafka, KafkaSettings], sinks: Sinks) -> None:
    cluster, settings = mock
    sink, reports = sinks.make(settings)
    cluster.go_down()
    many = records(1, 12_000)
    taken = sink.write(many)
    assert 9_000 <= taken <= 10_000
    assert sink.write(many[taken:]) == 0
    cluster.come_up()
    wait_until(lambda: len(reports.places) > 0, timeout_s=30, what="the first reports")
    write_all(sink, many[taken:])
    reports.wait(12_000)


def test_a_producer_that_never_begins_is_made_again(mock: tuple[MockKafka, KafkaSettings], sinks: Sinks) -> None:
    cluster, settings = mock
    cluster.answer_with_errors(INIT_PRODUCER_ID, 31, 31)  # cluster authorisation failed
    sink, reports = sinks.make(settings)
    write_all(sink, records(1, 10))
    reports.wait(10)
    assert len(set(ids_in(settings))) == 10


def test_a_resent_id_is_answered_from_the_ledger_of_an_earlier_process(
    mock: tuple[MockKafka, KafkaSettings], sinks: Sinks
) -> None:
    _, settings = mock
    first, reports = sinks.make(settings)
    write_all(first, records(1, 10))
    reports.wait(10)
    first.close(5.0)
    second, later = sinks.make(settings)
    write_all(second, records(6, 15))
    later.wait(10)
    assert {event_id: place.location for event_id, place in later.places if place.repeated} == {
        event_id: place.location for event_id, place in reports.places[5:]
    }
    second.close(5.0)
    assert sorted(Counter(ids_in(settings)).values()) == [1] * 15


def test_events_go_to_their_own_topic_and_are_answered_from_the_ledger(
    mock: tuple[MockKafka, KafkaSettings], sinks: Sinks
) -> None:
    _, settings = mock
    first, reports = sinks.make(settings)
    write_all(first, [item for seq in range(1, 11) for item in (event(seq), record(seq))])
    reports.wait(20)
    assert Counter(place.location.partition("/")[0] for _, place in reports.places) == {"events": 10, "escalations": 10}
    first.close(5.0)
    second, later = sinks.make(settings)
    write_all(second, [event(seq) for seq in (10, 12)] + [event(10, score=0.5), record(10), record(11)])
    later.wait(5)
    assert Counter((event_id, place.repeated) for event_id, place in later.places) == {
        ("node-1.edge:m1:10", True): 1,
        ("node-1.edge:m1:10", False): 1,
        ("node-1.edge:m1:12", False): 1,
        ("node-1.detector:e1:10", True): 1,
        ("node-1.detector:e1:11", False): 1,
    }
    second.close(5.0)
    patient = settings.model_copy(update={"connect_timeout_s": 10.0})
    found = Counter(read_event_ids(patient))
    assert found["camera_motion", "node-1.edge:m1:10"] == 2
    assert found["camera_escalation", "node-1.detector:e1:10"] == 1
    assert found.total() == 10 + 2 + 11


def test_both_kinds_may_share_a_topic(mock: tuple[MockKafka, KafkaSettings], sinks: Sinks) -> None:
    shared = mock[1].model_copy(update={"topics": topics_of("escalations", "escalations")})
    sink, reports = sinks.make(shared)
    write_all(sink, [event(1), record(1), event(1, stream="camera_track")])
    reports.wait(3)
    patient = shared.model_copy(update={"connect_timeout_s": 10.0})
    assert sorted(stream for stream, _ in read_event_ids(patient)) == [
        "camera_escalation",
        "camera_motion",
        "camera_track",
    ]


# --- an address that is wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_nobody_there(host: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings = KafkaSettings(bootstrap=f"{host}:{free_port()}", connect_timeout_s=0.5)
    started_s = time.monotonic()
    with pytest.raises(TransientError, match=r"bridge\.kafka\.bootstrap") as raised:
        KafkaSink(settings, site="home", ledger=Ledger(tmp_path / "ledger.db")).open(lambda _stored: None)
    assert time.monotonic() - started_s < 9.0, "without the setting it would be ten seconds and more"
    assert settings.bootstrap in str(raised.value)
    with pytest.raises(TransientError, match="--kafka"):
        list(read_event_ids(settings))
    assert capfd.readouterr().err == ""


def test_somebody_else_there(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Quiet(BaseHTTPRequestHandler):
        def log_message(self, *_arguments: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Quiet)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        settings = KafkaSettings(bootstrap=f"127.0.0.1:{server.server_port}", connect_timeout_s=1.0)
        with pytest.raises(TransientError, match="no Kafka answers"):
            TopicBook(settings, site="home", lines=ESCALATIONS).ensure()
    finally:
        server.shutdown()
        server.server_close()
        serving.join()
    assert capfd.readouterr().err == ""


# --- a real Kafka ---------------------------------------------------------------------------------------------


@pytest.fixture
def real(kafka: Kafka) -> KafkaSettings:
    run = uuid.uuid4().hex[:8]
    topics = topics_of(f"escalations-{run}", f"events-{run}").model_copy(update={"dead_letters": f"letters-{run}"})
    return KafkaSettings(bootstrap=kafka.bootstrap, topics=topics)


def test_what_an_independent_reader_finds(kafka: Kafka, real: KafkaSettings, sinks: Sinks) -> None:
    sink, reports = sinks.make(real)
    picture = jpeg(640, 360)
    evidence = Evidence(content_type="image/jpeg", sha256="0" * 64, width=640, height=360, data=picture)
    sent = record(7, camera="door", evidence=(evidence,))
    write_all(sink, [sent])
    reports.wait(1)
    (found,) = kafka.consume(real.topics.escalation, at_least=1)
    assert found.key == b"home/door"
    assert found.payload == sent.payload
    assert decode_json(Escalation, found.payload or b"", max_bytes=2**20).evidence[0].data == picture
    assert json.loads(found.payload or b"")["id"] == sent.event_id
    headers = dict(found.headers)
    assert (headers.pop("traceparent") or b"").startswith(b"00-")
    assert headers == {
        "ce_specversion": b"1.0",
        "ce_id": b"node-1.detector:e1:7",
        "ce_type": b"io.vigil.escalation.v1",
        "ce_source": b"/vigil/home/node-1.detector",
        "ce_subject": b"door",
        "ce_time": b"2026-01-01T12:00:00.000000Z",
        "ce_dataschema": b"urn:vigil:schema:Escalation:1",
        "content-type": b"application/json",
    }
    assert reports.places[0][1].location == f"{real.topics.escalation}/{found.partition}/{found.offset}"


def test_a_drill_is_marked_in_its_headers(kafka: Kafka, real: KafkaSettings, sinks: Sinks) -> None:
    sink, reports = sinks.make(real)
    write_all(sink, [record(1), record(2, drill=True)])
    reports.wait(2)
    marks = {headers["ce_id"]: headers.get("ce_drill") for headers in _headers(kafka, real.topics.escalation, 2)}
    assert marks == {b"node-1.detector:e1:1": None, b"node-1.detector:e1:2": b"true"}


def _headers(kafka: Kafka, topic: str, at_least: int) -> list[dict[str, bytes | None]]:
    return [dict(found.headers) for found in kafka.consume(topic, at_least=at_least)]


@pytest.mark.parametrize("stream", [spec.name for spec in EVENTS])
def test_what_an_independent_reader_finds_of_an_event(
    kafka: Kafka, real: KafkaSettings, sinks: Sinks, stream: str
) -> None:
    sink, reports = sinks.make(real)
    sent = event(3, stream=stream, camera="door")
    write_all(sink, [sent])
    reports.wait(1)
    (found,) = kafka.consume(real.topics.motion, at_least=1)
    assert (found.key, found.payload) == (b"home/door", sent.payload)
    assert (found.headers["ce_id"], found.headers["ce_source"]) == (b"node-1.edge:m1:3", b"/vigil/home/node-1.edge")
    assert found.headers["ce_type"] == EVENT_TYPES[stream].encode()
    assert reports.places[0][1].location == f"{real.topics.motion}/{found.partition}/{found.offset}"
    assert list(read_event_ids(real)) == [(stream, "node-1.edge:m1:3")]


def test_the_audit_of_a_kafka_without_events_finds_none(kafka: Kafka, real: KafkaSettings, tmp_path: Path) -> None:
    sink, reports = KafkaSink(real, site="home", ledger=Ledger(tmp_path / "ledger.db"), events=()), Reports()
    sink.open(reports)
    write_all(sink, [record(1)])
    reports.wait(1)
    sink.close(5.0)
    assert list(read_event_ids(real)) == [("camera_escalation", "node-1.detector:e1:1")]


def test_the_topic_is_made_to_take_the_largest_escalation(kafka: Kafka, real: KafkaSettings, sinks: Sinks) -> None:
    sink, reports = sinks.make(real)
    big = Evidence(content_type="image/jpeg", sha256="0" * 64, width=1, height=1, data=bytes(780_000))
    sent = record(1, evidence=(big,))
    assert 1_000_000 < len(sent.payload) < 1024 * 1024
    write_all(sink, [sent])
    reports.wait(1)
    assert reports.sinks() == {"kafka": 1}
    assert kafka.consume(real.topics.escalation, at_least=1)[0].payload == sent.payload


def test_a_topic_that_is_too_small_is_told_and_the_record_kept(
    kafka: Kafka, real: KafkaSettings, sinks: Sinks, capsys: pytest.CaptureFixture[str]
) -> None:
    from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

    topic = NewTopic(real.topics.escalation, 1, 1, config={"max.message.bytes": "20000"})
    admin = AdminClient({"bootstrap.servers": real.bootstrap})
    admin.create_topics([topic])[real.topics.escalation].result(30)
    sink, reports = sinks.make(real)
    assert "kafka.topic_small" in capsys.readouterr().out
    data = random.Random(1).randbytes(100_000)  # a batch is measured compressed
    noise = Evidence(content_type="image/jpeg", sha256="0" * 64, width=1, height=1, data=data)
    batch = [record(1), record(2, evidence=(noise,)), *records(3, 12)]
    assert len(batch[1].payload) > 100_000
    write_all(sink, batch)
    reports.wait(12)
    assert reports.sinks() == {"kafka": 11, "dead-letters": 1}
    assert [letter.event_id for letter in dead_letters_in(real)] == [batch[1].event_id]
    assert len(kafka.consume(real.topics.escalation, at_least=11)) == 11


def test_a_broker_that_dies_and_comes_back_has_everything_once(
    kafka_server: KafkaServer, real: KafkaSettings, sinks: Sinks
) -> None:
    real = real.model_copy(update={"bootstrap": kafka_server.bootstrap})
    sink, reports = sinks.make(real)
    killed = threading.Event()
    writing = threading.Thread(target=_write_slowly, args=(sink, records(1, 3000), killed))
    writing.start()
    wait_until(lambda: len(reports.places) > 500, what="the first reports")
    kafka_server.kill()
    killed.set()
    wait_until(lambda: sink._away, timeout_s=30, what="the complaint")
    kafka_server.start()
    writing.join()
    reports.wait(3000, timeout_s=120)
    found = kafka_server.consume(real.topics.escalation, at_least=3000)
    assert Counter(item.headers["ce_id"] for item in found) == Counter(
        f"node-1.detector:e1:{seq}".encode() for seq in range(1, 3001)
    )


def _write_slowly(sink: KafkaSink, sent: list[Record], killed: threading.Event) -> None:
    pause = threading.Event()
    for start in range(0, len(sent), 20):
        if start == len(sent) // 2:
            killed.wait()
        write_all(sink, sent[start : start + 20])
        pause.wait(0.01)
