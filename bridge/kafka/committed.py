"""Reading topics to their end, as nobody but a reader of committed records sees them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined] # its stubs forget it

from bridge.kafka.client import client_config, connected_admin, error_of
from config import PermanentError, TransientError
from config.settings import KafkaSettings

__all__ = ["read_committed"]

_POLL_S = 0.1
_ROWS = 2_000
_OPEN_PATIENCE_S = 60.0
"""For a transaction that a dead bridge left open: Kafka looks every 10 s for those that are over their time."""

Partition = tuple[str, int]


def read_committed(
    settings: KafkaSettings, partitions: Collection[Partition], stopped: Callable[[], bool] = lambda: False
) -> Iterator[Message]:
    """Every committed record of some partitions, to the end that each has now; those of one in their order.

    What lies behind somebody's open transaction is not visible yet, committed or not: this waits until it is.

    Args:
        settings: where Kafka is.
        partitions: topics and numbers that exist.
        stopped: asked now and then whether to leave.

    Raises:
        TransientError: Kafka stopped answering, or a transaction stays open.
        PermanentError: a topic may not be read.
    """
    ends = {partition: end for partition, end in _ends(settings, partitions).items() if end} if partitions else {}
    if not ends:
        return
    complaints: list[str] = []
    consumer = Consumer(
        {
            **client_config(settings),
            "group.id": f"vigil-{uuid.uuid4()}",  # the client asks for one; nothing is kept under it
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 50,
            "error_cb": lambda error: complaints.append(error.str()),
        }
    )
    try:
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for topic, number in sorted(ends)])
        yield from _to_the_ends(consumer, ends, settings, complaints, stopped)
    finally:
        consumer.close()


def _ends(settings: KafkaSettings, partitions: Collection[Partition]) -> dict[Partition, int]:
    """The offset after the last record that is there, visible or not."""
    admin, _ = connected_admin(settings)
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call] # a hole in its stubs
    asked = admin.list_offsets(
        {TopicPartition(*partition): latest for partition in partitions},
        isolation_level=IsolationLevel.READ_UNCOMMITTED,
        request_timeout=settings.connect_timeout_s,
    )
    try:
        return {(place.topic, place.partition): answer.result().offset for place, answer in asked.items()}
    except KafkaException as error:
        raise TransientError(f"the ends of {sorted(partitions)} are not to be had: {error_of(error).str()}") from error


def _to_the_ends(
    consumer: Consumer,
    ends: Mapping[Partition, int],
    settings: KafkaSettings,
    complaints: list[str],
    stopped: Callable[[], bool],
) -> Iterator[Message]:
    unfinished = dict(ends)
    unvisited = set(ends)
    heard_s = time.monotonic()
    while unfinished and not stopped():
        messages = consumer.consume(_ROWS, timeout=_POLL_S)
        if messages:
            heard_s = time.monotonic()
        elif time.monotonic() - heard_s > (settings.connect_timeout_s if unvisited else _OPEN_PATIENCE_S):
            raise _given_up(settings, unvisited, sorted(unfinished), complaints)
        for message in messages:
            error = message.error()
            if error is None:
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's own codes begin so
                partition = (message.topic() or "", message.partition() or 0)
                unvisited.discard(partition)
                if (message.offset() or 0) >= unfinished.get(partition, 0):
                    unfinished.pop(partition, None)
            elif not error.retriable():
                raise PermanentError(f"topic {message.topic()!r} cannot be read: {error.str()}")


def _given_up(
    settings: KafkaSettings, unvisited: Collection[Partition], unfinished: list[Partition], complaints: list[str]
) -> TransientError:
    if unvisited:
        return TransientError(f"Kafka at {settings.bootstrap} stopped answering ({complaints[-1:] or 'no word'})")
    return TransientError(
        f"a transaction stays open in {unfinished}: what comes after it cannot be read before it is over; "
        "Kafka ends it after the transaction.timeout.ms of whoever began it"
    )
