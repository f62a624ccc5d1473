from __future__ import annotations

import signal
import socket
import subprocess
import sys

import pytest
from confluent_kafka import Producer

from tests.support.kafka import Kafka, KafkaServer


def produce(kafka: Kafka, topic: str, payloads: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "enable.idempotence": True, "log_level": 2})
    failed: list[object] = []
    for payload in payloads:
        producer.produce(
            topic,
            value=payload,
            key=b"yard",
            headers={"ce_id": payload},
            on_delivery=lambda error, _message: failed.append(error) if error else None,
        )
    assert producer.flush(30) == 0
    assert not failed


def test_a_record_comes_back_with_key_and_headers(kafka: Kafka) -> None:
    kafka.create_topic("comes-back", partitions=3)
    produce(kafka, "comes-back", [b"one"])

    (record,) = kafka.consume("comes-back", at_least=1)

    assert (record.key, record.payload, dict(record.headers)) == (b"yard", b"one", {"ce_id": b"one"})


def test_a_topic_is_read_to_its_end(kafka: Kafka) -> None:
    kafka.create_topic("to-its-end")
    produce(kafka, "to-its-end", [b"%d" % number for number in range(500)])

    assert [int(record.payload or b"") for record in kafka.consume("to-its-end")] == list(range(500))


def test_records_that_do_not_come_are_missed(kafka: Kafka) -> None:
    kafka.create_topic("empty")

    assert kafka.consume("empty") == []
    with pytest.raises(AssertionError, match=r"0 records of empty came within 0\.5 s, not 1"):
        kafka.consume("empty", at_least=1, timeout_s=0.5)


def test_acknowledged_records_survive_a_kill(kafka_server: KafkaServer) -> None:
    kafka_server.create_topic("survives")
    produce(kafka_server, "survives", [b"before"])

    kafka_server.kill()
    kafka_server.start()
    produce(kafka_server, "survives", [b"after"])

    assert [record.payload for record in kafka_server.consume("survives", at_least=2)] == [b"before", b"after"]


@pytest.mark.usefixtures("kafka_server")
def test_one_in_the_foreground_says_where_it_is_and_ends_with_its_child() -> None:
    command = [sys.executable, "-m", "tests.support.kafka"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            kafka = Kafka(process.stdout.readline().strip())
            assert kafka.topics() == frozenset()
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    host, port = kafka.bootstrap.split(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))
