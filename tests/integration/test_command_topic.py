"""The topic of commands: what is done with, and what Kafka's troubles do to it. Against librdkafka's own mock."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from bridge.commands.messages import Received
from bridge.kafka import CommandTopic
from config.outside import CommandSettings
from config.settings import KafkaSettings
from tests.integration.mock_kafka import PRODUCE, MockKafka
from tests.support.clocks import HeldClock
from tests.support.kafka import Kafka
from tests.support.messages import AT
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

COMMANDS = CommandSettings(topic="commands", replies_topic="replies")
TOPIC_AUTHORIZATION_FAILED = 29


class Reader:
    """One process of the group."""

    def __init__(self, server: MockKafka, member: str = "hub.commands") -> None:
        self.clock = HeldClock(AT)
        self.kafka = Kafka(server.bootstrap)
        settings = KafkaSettings(bootstrap=server.bootstrap)
        self.lost = 0
        self.topic = CommandTopic(settings, COMMANDS, "home", member=member, on_lost=self._on_lost, clock=self.clock)
        self.taken: list[Received] = []

    def _on_lost(self, _is_lost: object) -> None:
        self.lost += 1

    def take(self, count: int) -> list[Received]:
        def came() -> bool:
            self.taken += self.topic.poll(0.05, has_room=True)
            return len(self.taken) >= count

        wait_until(came, timeout_s=60, what=f"{count} commands")
        return self.taken

    def wait_replies(self, count: int) -> list[bytes | None]:
        found: list[bytes | None] = []

        def came() -> bool:
            self.topic.poll(0.01, has_room=True)
            found[:] = [record.payload for record in self.kafka.consume("replies")]
            return len(found) >= count

        wait_until(came, timeout_s=60, what=f"{count} replies")
        return found


@pytest.fixture
def server() -> Iterator[MockKafka]:
    with MockKafka("commands", "replies") as server:
        yield server


def ask(server: MockKafka, *values: bytes) -> None:
    producer = Producer({"bootstrap.servers": server.bootstrap})
    for value in values:
        producer.produce("commands", value, b"yard", partition=0)
    assert producer.flush(30) == 0


def test_only_what_was_answered_is_done_with(server: MockKafka) -> None:
    ask(server, b"one", b"two", b"three")
    first = Reader(server)
    one, _, three = first.take(3)
    first.topic.reply(one, "1", b"r1")
    first.topic.reply(three, "3", b"r3")
    assert sorted(first.wait_replies(2), key=bytes_of) == [b"r1", b"r3"]
    first.topic.close()
    asker = Consumer({"bootstrap.servers": server.bootstrap, "group.id": "vigil-home-commands"})
    (place,) = asker.committed([TopicPartition("commands", 0)], timeout=30)
    asker.close()
    assert place.offset == 1


def bytes_of(payload: bytes | None) -> bytes:
    return payload or b""


def test_an_answer_that_kafka_refuses_is_written_again_and_its_command_waits_for_it(server: MockKafka) -> None:
    ask(server, b"one")
    reader = Reader(server)
    (one,) = reader.take(1)
    server.answer_with_errors(PRODUCE, TOPIC_AUTHORIZATION_FAILED)
    reader.topic.reply(one, "1", b"r1")

    def written() -> bool:
        reader.topic.poll(0.01, has_room=True)
        reader.clock.advance(1.0)
        return bool(reader.kafka.consume("replies"))

    wait_until(written, timeout_s=60, what="the answer")
    reader.topic.close()


def test_without_room_nothing_is_read_and_with_room_again_everything(server: MockKafka) -> None:
    ask(server, b"one")
    reader = Reader(server)
    reader.take(1)
    reader.topic.poll(0.05, has_room=False)
    ask(server, b"two")
    assert [reader.topic.poll(0.05, has_room=False) for _ in range(10)] == [[]] * 10
    assert [received.value for received in reader.take(2)] == [b"one", b"two"]
    reader.topic.close()
