"""What Kafka does not take where it belongs: on a real one, with limits and rights."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined] # its stubs forget it

from bridge.dead_letters_cli import dead_letters
from bridge.kafka import KafkaSink, dead_letters_in, read_dead_letters
from bridge.ledger import Ledger, read_quarantine
from bridge.role import find_ledgers
from bridge.sink import Record, StoredAt
from broker.bus import Delivery
from broker.messages import Evidence
from broker.topics import CAMERA_MOTION
from config.errors import TransientError
from config.outside import KafkaSecurity
from config.settings import BridgeSettings, KafkaSettings, Settings
from tests.support.kafka import Kafka, KafkaServer
from tests.support.messages import AT
from tests.support.waiting import wait_until
from tests.unit.bridge.records import event, record

pytestmark = pytest.mark.timeout(180)


class World:
    """A site, a sink into Kafka, and what it reported."""

    def __init__(self, state: Path, kafka: KafkaSettings) -> None:
        self.settings = Settings(site="home", node="hub", state_dir=state, bridge=BridgeSettings(kafka=kafka))
        self.kafka = kafka
        self.places: dict[str, StoredAt] = {}
        self.sink = KafkaSink(kafka, site="home", ledger=Ledger(state / "bridge" / "home" / "hub.bridge.db"))
        self.sink.open(self._on_stored)

    def _on_stored(self, stored: Sequence[tuple[Record, StoredAt]]) -> None:
        self.places |= {item.event_id: place for item, place in stored}

    def write(self, *records: Record) -> None:
        """Write as the forwarder does, and wait until everything is reported."""
        left = list(records)

        def reported() -> bool:
            del left[: self.sink.write(left)]
            return not left and all(item.event_id in self.places for item in records)

        wait_until(reported, timeout_s=60, what="the reports")

    def ask(self, *arguments: str) -> Result:
        """`vigil dead-letters`."""
        load: Callable[[Mapping[str, Any]], Settings] = lambda _overrides: self.settings  # noqa: E731
        return CliRunner().invoke(dead_letters, arguments, obj=load)


@pytest.fixture
def settings(kafka: Kafka) -> KafkaSettings:
    run = uuid.uuid4().hex[:8]
    names = {"escalation": f"escalations-{run}", "dead_letters": f"letters-{run}"}
    topics = names | dict.fromkeys(("motion", "track", "clip"), f"events-{run}")
    return KafkaSettings.model_validate({"bootstrap": kafka.bootstrap, "topics": topics, "refusal_s": 0.2})


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[KafkaSettings], World]]:
    made: list[World] = []

    def begin(settings: KafkaSettings) -> World:
        made.append(World(tmp_path, settings))
        return made[-1]

    yield begin
    for world in made:
        world.sink.close(0.0)


def make_topic(settings: KafkaSettings, topic: str, bytes_max: int) -> None:
    admin = AdminClient({"bootstrap.servers": settings.bootstrap})
    admin.create_topics([NewTopic(topic, 1, 1, config={"max.message.bytes": str(bytes_max)})])[topic].result(30)


def large(seq: int) -> Record:
    picture = random.Random(1).randbytes(60_000)  # a batch is measured compressed
    return record(
        seq, evidence=(Evidence(content_type="image/jpeg", sha256="0" * 64, width=1, height=1, data=picture),)
    )


def unreadable(payload: bytes) -> Record:
    topic = CAMERA_MOTION.at("home", camera="yard")
    came = Delivery(topic, payload, payload, retained=False, received_at=AT, _acknowledge=lambda: None)
    return Record.unreadable(came, "not JSON", 1.0)


def test_no_right_to_a_topic_for_too_long_and_the_way_back(
    kafka_server: KafkaServer, settings: KafkaSettings, make: Callable[[KafkaSettings], World]
) -> None:
    door = kafka_server.security
    login = KafkaSecurity.model_validate(
        {"protocol": "sasl_plaintext", "mechanism": "PLAIN", "username": door.user, "password": door.password}
    )
    own = {"bootstrap": door.bootstrap("sasl_plaintext"), "security": login}
    world = make(settings.model_copy(update=own))
    kafka_server.deny(settings.topics.motion)

    def is_denied(seq: int = 0) -> bool:
        world.write(event(len(world.places) + 1 + seq))
        return list(world.places.values())[-1].sink == "dead-letters"

    wait_until(is_denied, what="the broker to know of the rule")
    count = len(world.places)
    (letter,) = dead_letters_in(settings)
    assert (letter.code, letter.topic) == ("TOPIC_AUTHORIZATION_FAILED", settings.topics.motion)
    assert letter.value == event(count).payload
    assert letter.bus_topic == "vigil/v1/home/camera/yard/motion"
    assert list(read_dead_letters(settings)) == [("camera_motion", letter.event_id)]
    world.write(record(1))
    assert world.places[record(1).event_id].sink == "kafka"  # another topic is none the worse
    refused = world.ask("replay")
    assert refused.exit_code == 1
    assert "TOPIC_AUTHORIZATION_FAILED" in refused.output
    kafka_server.allow(settings.topics.motion)
    wait_until(lambda: world.ask("replay").exit_code == 0, what="the way back")
    found = {each.headers["ce_id"]: each.payload for each in kafka_server.consume(settings.topics.motion)}
    assert found[letter.event_id.encode()] == letter.value
    assert len(found) == count
    assert world.ask("replay").output.startswith("0 to send, 1 are there already")


def test_too_large_for_the_dead_letters_too(
    kafka: Kafka, settings: KafkaSettings, make: Callable[[KafkaSettings], World]
) -> None:
    for topic in (settings.topics.escalation, settings.topics.dead_letters):
        make_topic(settings, topic, 20_000)
    world = make(settings)
    sent = large(2)
    world.write(record(1), sent, record(3))
    assert [place.sink for place in world.places.values()].count("kafka") == 2
    place = world.places[sent.event_id]
    assert (place.sink, place.location) == ("quarantine", "hub.bridge.db/quarantined/1")
    (notice,) = dead_letters_in(settings)
    assert (notice.event_id, notice.whole_at, notice.value) == (sent.event_id, place.location, b"")
    listed = world.ask("list").output.splitlines()
    assert len(listed) == 1  # the notice is the same letter
    assert place.location in listed[0]
    shown = world.ask("show", sent.event_id).output
    assert shown.endswith(sent.payload.decode() + "\n")
    world.sink.close(1.0)
    again = make(settings)
    again.write(sent)
    assert (again.places[sent.event_id].location, again.places[sent.event_id].repeated) == (place.location, True)
    assert len(kafka.consume(settings.topics.escalation)) == 2


def test_what_cannot_be_read_is_kept_once(settings: KafkaSettings, make: Callable[[KafkaSettings], World]) -> None:
    world = make(settings)
    nameless, named = unreadable(b"\xff"), unreadable(b'{"id":"node-1.edge:m1:7"}')
    world.write(event(6), nameless, nameless, named, event(8))
    assert [world.places[event(n).event_id].sink for n in (6, 7, 8)] == ["kafka", "dead-letters", "kafka"]
    world.write(nameless)
    letters = sorted(dead_letters_in(settings), key=lambda letter: letter.event_id)
    assert [(letter.event_id, letter.value) for letter in letters] == [("", b"\xff"), (named.event_id, named.payload)]
    assert {letter.code for letter in letters} == {"UNREADABLE"}
    assert list(read_dead_letters(settings)) == [("camera_motion", named.event_id)]
    assert world.sink.gaps() == {}
    replayed = world.ask("replay")
    assert replayed.output.startswith("0 to send, 0 are there already, 2 are no messages of the contract")


def test_nothing_is_reported_before_it_is_kept(
    settings: KafkaSettings, make: Callable[[KafkaSettings], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_topic(settings, settings.topics.escalation, 20_000)
    world = make(settings)
    put_all, tries = world.sink._dead_letters.put_all, []

    def fail_first(letters: Sequence[Any]) -> list[StoredAt]:
        tries.append(len(world.places))
        if len(tries) == 1:
            raise TransientError("the disk is full")
        return put_all(letters)

    monkeypatch.setattr(world.sink._dead_letters, "put_all", fail_first)
    world.write(large(1))
    assert tries == [0, 0]
    assert world.places[large(1).event_id].sink == "dead-letters"
    assert len(list(dead_letters_in(settings))) == 1


def test_the_quarantine_of_every_bridge_of_this_machine_is_listed(
    settings: KafkaSettings, make: Callable[[KafkaSettings], World]
) -> None:
    world = make(settings)
    for number in (1, 2):
        ledger = Ledger(world.settings.state_dir / "bridge" / "home" / f"hub.bridge.{number}.db")
        ledger.quarantine(record(number), "MSG_SIZE_TOO_LARGE", "too large\x1b[2J")
        ledger.close()
    assert sum(len(read_quarantine(path)) for path in find_ledgers(world.settings) if path.stem != "hub.bridge") == 2
    listed = world.ask("list", "--code", "MSG_SIZE_TOO_LARGE").output
    assert len(listed.splitlines()) == 2
    assert "\x1b" not in listed
    nothing = world.ask("list", "--code", "UNREADABLE")
    assert (nothing.stdout, nothing.stderr) == ("", "no dead letters\n")
    assert world.ask("replay", "--dry-run").output.startswith("2 to send")
    assert world.ask("replay", record(1).event_id).exit_code == 0
    assert world.ask("replay").output.startswith("1 to send, 1 are there already")
    assert world.ask("show", "nothing").exit_code == 1
