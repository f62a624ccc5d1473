"""What tests ask of a Kafka, whoever runs it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined] # its stubs forget it

__all__ = ["Kafka", "Record"]

_ANSWER_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One record as it lies in a topic."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    payload: bytes | None
    headers: Mapping[str, bytes | None]
    timestamp_ms: int


class Kafka:
    """A Kafka at an address.

    Args:
        bootstrap: `host:port` of it.
    """

    def __init__(self, bootstrap: str = "") -> None:
        self.bootstrap = bootstrap

    def create_topic(self, topic: str, *, partitions: int = 1, config: Mapping[str, str] | None = None) -> None:
        """Create a topic, and wait until it is there.

        Raises:
            KafkaException: it exists already, or the broker does not want it.
        """
        admin = AdminClient(self._client_settings())
        created = admin.create_topics(
            [NewTopic(topic, partitions, 1, config=dict(config or {}))], operation_timeout=_ANSWER_TIMEOUT_S
        )
        created[topic].result(_ANSWER_TIMEOUT_S)

    def produce(
        self, topic: str, payload: bytes | None, *, key: bytes | None = None, headers: Mapping[str, bytes] | None = None
    ) -> None:
        """Write one record, and wait until it is there.

        Raises:
            AssertionError: it is not.
        """
        producer = Producer({**self._client_settings(), "acks": "all"})
        producer.produce(topic, payload, key, headers=list((headers or {}).items()))
        assert producer.flush(_ANSWER_TIMEOUT_S) == 0, f"nothing was written to {topic}"

    def topics(self) -> frozenset[str]:
        """The topics that are there now."""
        return frozenset(AdminClient(self._client_settings()).list_topics(timeout=_ANSWER_TIMEOUT_S).topics)

    def consume(self, topic: str, *, at_least: int = 0, timeout_s: float = 30.0) -> list[Record]:
        """Read a topic from its beginning to its end, as a consumer that knows nothing of who wrote it.

        Args:
            topic: one that exists.
            at_least: wait until this many records are there.
            timeout_s: for how long.

        Returns:
            Its records, those of one partition in their order.

        Raises:
            AssertionError: fewer records came.
        """
        consumer = Consumer(
            {
                **self._client_settings(),
                "group.id": f"test-{uuid.uuid4()}",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
            }
        )
        try:
            partitions = consumer.list_topics(topic, timeout=_ANSWER_TIMEOUT_S).topics[topic].partitions
            consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
            return _read(consumer, topic, set(partitions), at_least, timeout_s)
        finally:
            consumer.close()

    def _client_settings(self) -> dict[str, str | int | float | bool]:
        critical = 2  # a test that kills the broker wants no complaint about it
        return {"bootstrap.servers": self.bootstrap, "log_level": critical}


def _read(consumer: Consumer, topic: str, unfinished: set[int], at_least: int, timeout_s: float) -> list[Record]:
    records: list[Record] = []
    deadline_s = time.monotonic() + timeout_s
    while unfinished or len(records) < at_least:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise AssertionError(f"{len(records)} records of {topic} came within {timeout_s} s, not {at_least}")
        message = consumer.poll(left_s)
        if message is None:
            continue
        error = message.error()
        if error is None:
            records.append(_record(message))
        elif error.code() == KafkaError._PARTITION_EOF:
            unfinished.discard(message.partition() or 0)
        elif not error.retriable():
            raise KafkaException(error)
    return records


def _record(message: Message) -> Record:
    headers = cast("list[tuple[str, bytes | None]]", message.headers() or [])  # so they always come back
    return Record(
        topic=message.topic() or "",
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        key=message.key(),
        payload=message.value(),
        headers=MappingProxyType(dict(headers)),
        timestamp_ms=message.timestamp()[1],
    )
