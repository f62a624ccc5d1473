"""Kafka as a sink, at least once.

An idempotent producer with `acks=all` and no delivery timeout: a record waits as long as Kafka is away, and its
message stays unacknowledged on the bus.

Source: librdkafka's INTRODUCTION.md on idempotence.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from bridge.kafka.client import client_config, error_of
from bridge.kafka.records import headers_of, key_of, topic_of
from bridge.kafka.topics import MESSAGE_BYTES_MAX, ensure_topic
from bridge.ledger import Ledger
from bridge.sink import ESCALATIONS, EVENTS, OnStored, Record, StoredAt
from broker.topics import TopicSpec
from config import Backoff, Clock, PermanentError, Supervised, SystemClock, TransientError, get_logger
from config.settings import KafkaSettings

__all__ = ["KafkaSink"]

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


class KafkaSink:
    """Escalations and events, each into its topic.

    Concurrency: one thread writes; delivery reports, the ledger and `on_stored` are on a thread of this object. The
    producer is exchanged under a lock.

    Args:
        settings: where Kafka is, and the topics.
        site: the site whose messages these are.
        ledger: remembers what was delivered.
        events: lines of the contract that come besides escalations.
        clock: time.
        on_fatal: called with the error after which nothing more can be reported.
    """

    name = "kafka"

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        site: str,
        ledger: Ledger,
        events: Sequence[TopicSpec] = EVENTS,
        clock: Clock | None = None,
        on_fatal: Callable[[Exception], None] | None = None,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._lines: dict[str, tuple[TopicSpec, ...]] = {}
        for spec in (*ESCALATIONS, *events):
            topic = topic_of(settings.topics, spec.name, site, "")
            self._lines[topic] = (*self._lines.get(topic, ()), spec)
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
                **client_config(self._settings),
                "enable.idempotence": True,
                "acks": "all",
                "delivery.timeout.ms": 0,  # for ever: the record waits, its message is not acknowledged
                "linger.ms": 2,
                "compression.type": "lz4",
                "message.max.bytes": MESSAGE_BYTES_MAX,
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
                topic_of(self._settings.topics, record.stream, record.site, record.camera),
                value=record.payload,
                key=key_of(record),
                headers=headers_of(record),
                on_delivery=partial(self._on_delivery, record),
            )
        except BufferError:
            return False
        except KafkaException as error:
            reason = error_of(error)
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
                self._on_error(error_of(error))
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


def _cure(error: KafkaError) -> str:
    if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        return "allow this client to write to the topic"
    if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):  # noqa: SLF001
        return "create the topic again"
    return "see the cluster's own log; the record is tried again"
