"""What the cluster has, read back: by `vigil audit`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from bridge.kafka.client import client_config, error_of
from bridge.kafka.records import EVENT_TYPES, topic_of
from bridge.sink import ESCALATIONS, EVENTS
from config import PermanentError, TransientError
from config.settings import KafkaSettings

__all__ = ["read_event_ids"]

_POLL_S = 0.1


def read_event_ids(settings: KafkaSettings) -> Iterator[tuple[str, str]]:
    """What every record of both topics says it is, from their beginning to their present end.

    Yields:
        The line of the contract and the event id, both from the headers; empty where a record does not say.

    Raises:
        TransientError: no Kafka answers, or it stops answering.
        PermanentError: there is no topic of escalations; without one of events there are just none.
    """
    complaints: list[str] = []
    consumer = Consumer(
        {
            **client_config(settings),
            "group.id": f"vigil-audit-{uuid.uuid4()}",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "error_cb": lambda error: complaints.append(error.str()),
        }
    )
    try:
        partitions = _partitions(consumer, settings)
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for topic, number in partitions])
        for message in _to_the_end(consumer, set(partitions), settings, complaints):
            yield _identity_of(message)
    finally:
        consumer.close()


def _partitions(consumer: Consumer, settings: KafkaSettings) -> list[tuple[str, int]]:
    try:
        topics = consumer.list_topics(timeout=settings.connect_timeout_s).topics
    except KafkaException as error:
        raise TransientError(
            f"no Kafka answers at {settings.bootstrap} within {settings.connect_timeout_s:g} s "
            f"({error_of(error).str()}): check --kafka HOST:PORT, and that the cluster is up"
        ) from error
    escalations, *others = _topics(settings)
    if escalations not in topics:
        raise PermanentError(f"Kafka at {settings.bootstrap} has no topic {escalations!r}; give another with --topic")
    wanted = {escalations, *others} & topics.keys()
    return [(topic, number) for topic in sorted(wanted) for number in topics[topic].partitions]


def _topics(settings: KafkaSettings) -> list[str]:
    """Those of escalations and events, that of escalations first."""
    return list(dict.fromkeys(topic_of(settings.topics, spec.name, "", "") for spec in ESCALATIONS + EVENTS))


def _to_the_end(
    consumer: Consumer, unfinished: set[tuple[str, int]], settings: KafkaSettings, complaints: list[str]
) -> Iterator[Message]:
    heard_s = time.monotonic()
    while unfinished:
        messages = consumer.consume(500, timeout=_POLL_S)
        if messages:
            heard_s = time.monotonic()
        elif time.monotonic() - heard_s > settings.connect_timeout_s:
            raise TransientError(f"Kafka at {settings.bootstrap} stopped answering ({complaints[-1:] or 'no word'})")
        for message in messages:
            error = message.error()
            if error is None:
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                unfinished.discard((message.topic() or "", message.partition() or 0))
            elif not error.retriable():
                raise PermanentError(f"topic {message.topic()!r} cannot be read: {error.str()}")


_STREAMS = {event_type: stream for stream, event_type in EVENT_TYPES.items()}


def _identity_of(message: Message) -> tuple[str, str]:
    listed = cast("list[tuple[str, bytes | None]]", message.headers() or [])  # so they always come back
    headers = {name: (value or b"").decode("utf-8", "replace") for name, value in listed}
    return _STREAMS.get(headers.get("ce_type", ""), ""), headers.get("ce_id", "")
