"""Kafka as a sink, and as something that can be audited. The only file that imports confluent_kafka.

An idempotent producer with `acks=all` and no delivery timeout: a record waits as long as Kafka is away, and its
message stays unacknowledged on the bus. Escalations and events have a topic each. The value is the message's JSON as it
came; the attributes are headers.

Source: CloudEvents 1.0, Kafka protocol binding, binary content mode; librdkafka's INTRODUCTION.md on idempotence.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined] # its stubs forget NewTopic
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from bridge.ledger import Ledger
from bridge.sink import ESCALATIONS, EVENTS, OnStored, Record, StoredAt
from broker.topics import TopicSpec
from config import Backoff, Clock, PermanentError, Supervised, SystemClock, TransientError, get_logger
from config.settings import KafkaSettings

__all__ = ["EVENT_TYPES", "KafkaSink", "ensure_topic", "read_event_ids"]

EVENT_TYPES = {spec.name: f"io.vigil.{spec.name.removeprefix('camera_')}.v1" for spec in ESCALATIONS + EVENTS}
"""CloudEvents type by line of the contract."""

_MESSAGE_BYTES_MAX = 2 * 1024 * 1024
"""The contract lets an escalation be 1 MiB; key, headers and the batch around them come on top."""
_BATCH_OVERHEAD_BYTES = 4_096
_QUEUE_ROWS = 10_000
_QUEUE_KIB = 65_536
"""Small: a full producer is what lets the bus wait."""
_POLL_S = 0.1
_RENEW_S = 5.0
_RECORD_ERRORS = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError._INVALID_ARG,  # noqa: SLF001 - librdkafka's own codes begin with an underscore
    }
)
"""Errors of a record, which it will always meet. All others are of the cluster and may be cured."""
_PRODUCER_GONE = frozenset({KafkaError._FATAL, KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})  # noqa: SLF001


_SILENT = logging.getLogger("librdkafka")
_SILENT.disabled = True
"""Takes what librdkafka would write to standard error; `error_cb` gets it as well, and makes it a log event."""


def _client(settings: KafkaSettings) -> dict[str, Any]:
    return {
        "bootstrap.servers": settings.bootstrap,
        "client.id": "vigil-bridge",
        "socket.keepalive.enable": True,
        "reconnect.backoff.ms": 100,
        "reconnect.backoff.max.ms": 2_000,
        "logger": _SILENT,
    }


def _error_of(error: KafkaException) -> KafkaError:
    cause = error.args[0]
    return cause if isinstance(cause, KafkaError) else KafkaError(KafkaError._FAIL, str(error))  # noqa: SLF001


class KafkaSink:
    """Escalations into one Kafka topic, events into another.

    Concurrency: one thread writes; delivery reports, the ledger and `on_stored` are on a thread of this object. The
    producer is exchanged under a lock.

    Args:
        settings: where Kafka is, and the topics.
        ledger: remembers what was delivered.
        events: whether there will be events.
        clock: time.
        on_fatal: called with the error after which nothing more can be reported.
    """

    name = "kafka"

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        ledger: Ledger,
        events: bool = True,
        clock: Clock | None = None,
        on_fatal: Callable[[Exception], None] | None = None,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._topics = {"escalation": settings.topic, "event": settings.events_topic}
        self._lines = {settings.topic: ESCALATIONS}
        if events:
            self._lines[settings.events_topic] = self._lines.get(settings.events_topic, ()) + EVENTS
        self._clock: Clock = clock or SystemClock()
        self._log = get_logger(bootstrap=settings.bootstrap, topics=list(self._lines))
        self._lock = threading.Lock()
        self._producer: Producer | None = None
        self._broken: str | None = None
        self._away = False
        self._delivered: list[tuple[Record, str]] = []
        self._failed: deque[tuple[Record, KafkaError]] = deque()
        self._again: deque[Record] = deque()
        self._again_at_s = 0.0
        self._suspects: set[tuple[str, bytes]] = set()
        self._backoff = Backoff(0.25, 8.0)
        self._on_stored: OnStored = lambda _stored: None
        self._stop = threading.Event()
        self._thread = Supervised("kafka", self._poll_once, stop=self._stop, on_fatal=on_fatal, clock=self._clock)

    def open(self, on_stored: OnStored) -> None:
        """Open the ledger, see that Kafka answers and has the topics, and begin.

        Raises:
            TransientError: no Kafka answers within ``bridge.kafka.connect_timeout_s``, or the disk fails.
            PermanentError: a topic is missing and cannot be created, or the ledger cannot be used.
        """
        self._on_stored = on_stored
        self._ledger.open()
        for topic, lines in self._lines.items():
            ensure_topic(self._settings, topic, lines)
        self._producer = self._make_producer()
        self._log.info("kafka.ready")
        self._thread.start()

    def write(self, records: Sequence[Record]) -> int:
        """Hand records to the producer; those that were delivered before are reported at once.

        Raises:
            TransientError: the ledger cannot be read now.
            PermanentError: the ledger is damaged.
        """
        if not self._has_room():
            return 0
        known = self._ledger.known(records)
        taken = 0
        with self._lock:
            for record in records:
                if record.key not in known and not self._produce(record):
                    break
                taken += 1
        repeated = [(record, known[record.key]) for record in records[:taken] if record.key in known]
        if repeated:
            self._on_stored(repeated)
        return taken

    def gaps(self) -> Counter[tuple[str, str]]:
        """How many sequences it lacks between the lowest and the highest it has, by line of the contract and origin."""
        return self._ledger.gaps()

    def close(self, timeout_s: float) -> None:
        """Wait at most `timeout_s` for what is on its way; what is left is not reported, so it is sent again."""
        self._stop.set()
        if self._thread.join(3.0) and self._producer is not None:
            self._producer.flush(timeout_s)
            try:
                self._settle()
            except (TransientError, PermanentError) as error:
                self._log.warning("kafka.unsettled", error=str(error))
        self._ledger.close()

    # --- out ---------------------------------------------------------------------------------------------------

    def _make_producer(self) -> Producer:
        return Producer(
            {
                **_client(self._settings),
                "enable.idempotence": True,
                "acks": "all",
                "delivery.timeout.ms": 0,  # for ever: the record waits, its message is not acknowledged
                "linger.ms": 2,
                "compression.type": "lz4",
                "message.max.bytes": _MESSAGE_BYTES_MAX,
                "queue.buffering.max.messages": _QUEUE_ROWS,
                "queue.buffering.max.kbytes": _QUEUE_KIB,
                "partitioner": "murmur2_random",  # as Java's, so that others may write to the same keys
                "error_cb": self._on_error,
            }
        )

    def _has_room(self) -> bool:
        # While records wait for another try nothing new may overtake them, nor share a batch with a suspect.
        waits = self._again or self._suspects or self._broken is not None
        return not waits and self._producer is not None and len(self._producer) < _QUEUE_ROWS

    def _produce(self, record: Record) -> bool:
        """Queue one record; False when there is no room now."""
        if self._producer is None or self._broken is not None:
            return False
        try:
            self._producer.produce(
                self._topics[record.table],
                value=record.payload,
                key=f"{record.site}/{record.camera}",
                headers=_headers(record),
                on_delivery=partial(self._on_delivery, record),
            )
        except BufferError:
            return False
        except KafkaException as error:
            reason = _error_of(error)
            if reason.code() in _PRODUCER_GONE:
                self._broken = reason.str()
                return False
            self._failed.append((record, reason))
        return True

    def _on_delivery(self, record: Record, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self._delivered.append((record, f"{message.topic()}/{message.partition()}/{message.offset()}"))
        else:
            self._failed.append((record, error))

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._broken = error.str()
            return
        self._away = True
        self._log.warning("kafka.unreachable", error=error.str())

    # --- back --------------------------------------------------------------------------------------------------

    def _poll_once(self) -> None:
        if self._producer is not None:
            try:
                self._producer.poll(_POLL_S)
            except KafkaException as error:
                self._on_error(_error_of(error))
        if self._broken is not None:
            self._renew(self._broken)
        self._settle()
        if self._again and self._clock.monotonic_s() >= self._again_at_s:
            self._produce_again()

    def _settle(self) -> None:
        """Note what was delivered, then report it; decide about what was not."""
        if self._delivered:
            at = self._ledger.add(self._delivered)
            stored = [(record, StoredAt(self.name, location, at)) for record, location in self._delivered]
            self._suspects.difference_update(record.key for record, _ in stored)
            self._delivered.clear()
            self._note_success()
            self._on_stored(stored)
        while self._failed:
            record, error = self._failed[0]
            if error.code() not in _RECORD_ERRORS:
                self._put_off(record, error)
            elif record.key in self._suspects:
                self._quarantine(record, error)
            else:
                # A batch fails as a whole, with the error of one of its records: each gets another try, alone.
                self._suspects.add(record.key)
                self._again.append(record)
            self._failed.popleft()

    def _note_success(self) -> None:
        self._backoff.reset()
        if self._away:
            self._away = False
            self._log.info("kafka.back")

    def _quarantine(self, record: Record, error: KafkaError) -> None:
        reason = f"{error.name()}: {error.str()}"
        place = self._ledger.quarantine(record, reason)
        self._suspects.discard(record.key)
        self._log.error("kafka.quarantined", event_id=record.event_id, reason=reason, location=place.location)
        self._on_stored([(record, place)])

    def _put_off(self, record: Record, error: KafkaError) -> None:
        if error.code() not in _PRODUCER_GONE:
            self._log.error("kafka.refused", error=error.str(), cure=_cure(error))
        if not self._again:
            self._again_at_s = self._clock.monotonic_s() + self._backoff.delay_s()
        self._again.append(record)

    def _produce_again(self) -> None:
        """Try again what has failed, in the old order; one by one as long as there are suspects."""
        with self._lock:
            waiting = deque(sorted(self._again, key=lambda record: record.received_s))
            while waiting and not (self._suspects and self._busy()) and self._produce(waiting[0]):
                waiting.popleft()
            self._again = waiting

    def _busy(self) -> bool:
        return self._producer is not None and len(self._producer) > 0

    def _renew(self, reason: str) -> None:
        """Replace a producer that can go on no more. What it had on its way goes out again, in the old order.

        Whether Kafka has some of it already nobody knows: those are repeats, never losses.
        """
        with self._lock:
            if self._producer is not None:
                self._producer.purge()
                if self._producer.flush(_RENEW_S):
                    raise TransientError(f"the Kafka producer does not let go of its records ({reason})")
            self._producer = self._make_producer()
            self._broken = None
        self._log.error("kafka.producer_renewed", reason=reason)


def _headers(record: Record) -> list[tuple[str, str | bytes | None]]:
    return [
        ("ce_specversion", "1.0"),
        ("ce_id", record.event_id),
        ("ce_type", EVENT_TYPES[record.stream]),
        ("ce_source", f"/vigil/{record.site}/{record.origin}"),
        ("ce_subject", record.camera),
        ("ce_time", record.at),
        ("content-type", "application/json"),
        # Only on drills, so that a consumer can leave them out without reading the payload.
        *([("ce_drill", "true")] if record.details.get("drill") else []),
    ]


def _cure(error: KafkaError) -> str:
    if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        return "allow this client to write to the topic"
    if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):  # noqa: SLF001
        return "create the topic again"
    return "see the cluster's own log; the record is tried again"


def ensure_topic(settings: KafkaSettings, topic: str, lines: Sequence[TopicSpec]) -> None:
    """See that Kafka answers and has a topic; create it when it has not.

    Args:
        settings: where Kafka is.
        topic: the topic's name in Kafka.
        lines: lines of the contract that go into it.

    Raises:
        TransientError: no Kafka answers within ``bridge.kafka.connect_timeout_s``.
        PermanentError: the topic is missing and cannot be created.
    """
    complaints: list[str] = []
    client = _client(settings)
    client["error_cb"] = lambda error: complaints.append(error.str())
    admin = AdminClient(client)
    try:
        topics = admin.list_topics(timeout=settings.connect_timeout_s).topics
    except KafkaException as error:
        admin.poll(0)
        reason = complaints[0] if complaints else _error_of(error).str()
        raise TransientError(
            f"no Kafka answers at {settings.bootstrap} within {settings.connect_timeout_s:g} s ({reason}): "
            "check bridge.kafka.bootstrap (--kafka HOST:PORT), and that the cluster is up"
        ) from error
    if topic in topics:
        _check_topic(admin, settings, topic, max(line.max_bytes for line in lines))
    else:
        _create_topic(admin, settings, topic)


def _create_topic(admin: AdminClient, settings: KafkaSettings, topic: str) -> None:
    wanted = NewTopic(
        topic,
        num_partitions=-1,  # the cluster's own defaults
        replication_factor=-1,
        config={"max.message.bytes": str(_MESSAGE_BYTES_MAX)},
    )
    try:
        created = admin.create_topics([wanted], request_timeout=settings.connect_timeout_s)
        created[topic].result(settings.connect_timeout_s + 1.0)
    except KafkaException as error:
        reason = _error_of(error)
        if reason.code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return
        name = "topic" if topic == settings.topic else "events_topic"
        raise PermanentError(
            f"Kafka at {settings.bootstrap} has no topic {topic!r} and does not let it be created "
            f"({reason.str()}): create it with max.message.bytes={_MESSAGE_BYTES_MAX}, or set bridge.kafka.{name}"
        ) from error
    get_logger().info("kafka.topic_created", topic=topic)


def _check_topic(admin: AdminClient, settings: KafkaSettings, topic: str, payload_bytes_max: int) -> None:
    """Say so when the topic does not take the largest message; such a one would be quarantined."""
    resource = ConfigResource(ResourceType.TOPIC, topic)
    try:
        asked = admin.describe_configs([resource], request_timeout=settings.connect_timeout_s)
        entry = asked[resource].result(settings.connect_timeout_s + 1.0)["max.message.bytes"]
    except KafkaException as error:
        get_logger().warning("kafka.topic_unchecked", topic=topic, error=_error_of(error).str())
        return
    if int(entry.value) < payload_bytes_max + _BATCH_OVERHEAD_BYTES:
        get_logger().warning(
            "kafka.topic_small",
            topic=topic,
            max_message_bytes=int(entry.value),
            cure=f"set the topic's max.message.bytes to {_MESSAGE_BYTES_MAX}: larger messages are quarantined",
        )


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
            **_client(settings),
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
            f"({_error_of(error).str()}): check --kafka HOST:PORT, and that the cluster is up"
        ) from error
    if settings.topic not in topics:
        raise PermanentError(
            f"Kafka at {settings.bootstrap} has no topic {settings.topic!r}; give another with --topic"
        )
    wanted = {settings.topic, settings.events_topic} & topics.keys()
    return [(topic, number) for topic in sorted(wanted) for number in topics[topic].partitions]


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
