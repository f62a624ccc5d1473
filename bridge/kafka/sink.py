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
from bridge.kafka.dead_letters import RECORD_ERRORS, TOPIC_ERRORS, DeadLetters, Letter, leading
from bridge.kafka.records import kafka_record, topic_of
from bridge.kafka.topics import MESSAGE_BYTES_MAX, TopicBook
from bridge.ledger import Ledger
from bridge.sink import ESCALATIONS, EVENTS, OnStored, Record, StoredAt
from broker import Distribution
from broker.topics import TopicSpec
from config import Backoff, Clock, PermanentError, Supervised, SystemClock, TransientError, get_logger
from config.settings import KafkaSettings

__all__ = ["KafkaSink"]

_QUEUE_ROWS = 10_000
_QUEUE_KIB = 65_536
"""Small: a full producer is what lets the bus wait."""
_POLL_S = 0.1
_RENEW_S = 5.0
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
        reported: counts how long Kafka takes for each record.
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
        reported: Distribution | None = None,
        clock: Clock | None = None,
        on_fatal: Callable[[Exception], None] | None = None,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._dead_letters = DeadLetters(settings, ledger, clock=clock)
        self._refused_since_s: dict[str, float] = {}
        self._reported = reported or Distribution()
        self._book = TopicBook(settings, site=site, lines=(*ESCALATIONS, *events))
        self._clock: Clock = clock or SystemClock()
        self._log = get_logger(bootstrap=settings.bootstrap)
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
        self._book.ensure()
        self._producer = self._make_producer()
        self._log.info("kafka.ready")
        self._thread.start()

    def write(self, records: Sequence[Record]) -> int:
        """Hand records to the producer; those that were delivered before are reported at once.

        Raises:
            TransientError: the ledger cannot be read now, or a camera's topic not be made.
            PermanentError: the ledger is damaged.
        """
        if not self._has_room():
            return 0
        unreadable = leading(records, is_readable=False)
        if unreadable:
            self._on_stored(self._dead_letters.put_unreadable(unreadable))
            return len(unreadable)
        records = leading(records, is_readable=True)
        self._book.prepare(records)
        known = self._ledger.known(records)
        taken = 0
        with self._lock:
            for record in records:
                if not (known and record.key in known) and not self._produce(record):
                    break
                taken += 1
        if known:
            self._on_stored([(record, known[record.key]) for record in records[:taken] if record.key in known])
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
        self._dead_letters.close()
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
                "topic.metadata.propagation.max.ms": 5_000,  # by then a topic that was just made is known
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
        sent = kafka_record(record, self._settings)
        try:
            self._producer.produce(
                sent.topic,
                value=sent.value,
                key=sent.key,
                headers=sent.headers,
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
            self._reported.note(message.latency() or 0.0)
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
            if self._suspects:
                self._suspects.difference_update(record.key for record, _ in stored)
            self._delivered.clear()
            self._note_success(stored)
            self._on_stored(stored)
        hopeless = []
        while self._failed:
            record, error = self._failed.popleft()
            if self._is_hopeless(record, error):
                hopeless.append((record, error))
            elif error.code() in RECORD_ERRORS:
                # A batch fails as a whole, with the error of one of its records: each gets another try, alone.
                self._suspects.add(record.key)
                self._again.append(record)
            else:
                self._put_off(record, error)
        if hopeless:
            self._bury(hopeless)

    def _note_success(self, stored: Sequence[tuple[Record, StoredAt]]) -> None:
        self._backoff.reset()
        if self._refused_since_s:
            for topic in {self._topic_of(record) for record, _ in stored} & self._refused_since_s.keys():
                del self._refused_since_s[topic]
                self._log.info("kafka.taken_again", topic=topic)
        if self._away:
            self._away = False
            self._log.info("kafka.back")

    def _topic_of(self, record: Record) -> str:
        return topic_of(self._settings.topics, record.stream, record.site, record.camera)

    def _is_hopeless(self, record: Record, error: KafkaError) -> bool:
        """Whether it will always fail, or its topic does for so long that a person would have cured it."""
        if error.code() in RECORD_ERRORS:
            return record.key in self._suspects
        if error.code() not in TOPIC_ERRORS:
            return False
        now_s, topic = self._clock.monotonic_s(), self._topic_of(record)
        if topic not in self._refused_since_s:
            self._refused_since_s[topic] = now_s
            self._log.error(
                "kafka.refused", topic=topic, error=error.str(), for_s=self._settings.refusal_s, cure=_cure(error)
            )
        return now_s - self._refused_since_s[topic] >= self._settings.refusal_s

    def _bury(self, hopeless: Sequence[tuple[Record, KafkaError]]) -> None:
        letters = [Letter(record, error.name(), error.str()) for record, error in hopeless]
        try:
            places = self._dead_letters.put_all(letters)
        except (TransientError, PermanentError):
            self._failed.extendleft(reversed(hopeless))
            raise
        stored = [(letter.record, place) for letter, place in zip(letters, places, strict=True)]
        self._suspects.difference_update(record.key for record, _ in stored)
        self._on_stored(stored)

    def _put_off(self, record: Record, error: KafkaError) -> None:
        if error.code() not in _PRODUCER_GONE | TOPIC_ERRORS:
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
