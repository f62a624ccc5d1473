"""Dead letters: what Kafka does not take where it belongs, in a topic of their own, with the reason.

A dead letter has the value, the key and the CloudEvents headers of the record that it would have been, and headers that
say where it belonged and why it is not there. A record that is too large for this topic too, and everything as long as
this topic takes nothing, goes into the quarantine of the bridge's own ledger, whole; of what is too large the topic
gets the headers, which then say where the whole record is.

Either way it is durable then, and its sender gets a receipt: a record that nobody can deliver must not hold up those
that follow it, nor be sent again for ever. `vigil dead-letters` shows them, and brings them where they belong.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, cast

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from bridge.kafka.client import client_config, connected_admin, error_of
from bridge.kafka.committed import read_committed
from bridge.kafka.records import Header, KafkaRecord, kafka_record
from bridge.kafka.topics import MESSAGE_BYTES_MAX
from bridge.ledger import Ledger
from bridge.sink import Record, StoredAt, utc_text
from config import Clock, SystemClock, TransientError, get_logger
from config.settings import KafkaSettings

__all__ = [
    "RECORD_ERRORS",
    "TOPIC_ERRORS",
    "UNREADABLE",
    "DeadLetter",
    "DeadLetters",
    "Letter",
    "dead_letters_in",
    "leading",
    "send_back",
]

RECORD_ERRORS = frozenset(
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
"""Errors of a record, which it will always meet,"""
TOPIC_ERRORS = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
    }
)
"""and of a topic, which a person may cure. All others are of the cluster, and pass."""
UNREADABLE = "UNREADABLE"
"""The code of what is no message of the contract."""
_SINK = "dead-letters"
_UNREADABLE_TYPE = "io.vigil.unreadable.v1"
_TIMEOUT_S = 10.0
"""For Kafka's answer. The record is tried again as a whole then: its dead letter may be there twice."""
_AT_ONCE = 500
_PREFIX = "dead-letter-"


class Letter(NamedTuple):
    """A record that is to become a dead letter.

    Attributes:
        code: the kind of error, in a word: Kafka's name of it, or `UNREADABLE`.
        reason: the error in a sentence.
    """

    record: Record
    code: str
    reason: str


def leading(records: Sequence[Record], *, is_readable: bool) -> Sequence[Record]:
    """The first ones, as long as they can all be read, or none of them can."""
    for number, record in enumerate(records):
        if is_readable == bool(record.fault):
            return records[:number]
    return records


class DeadLetters:
    """Keeps records that do not get where they belong.

    Concurrency: every method may be called from any thread; they wait for each other, and for Kafka.

    Args:
        settings: where Kafka is, and the topic.
        ledger: notes what was kept, and keeps what the topic does not take.
        clock: time.
    """

    def __init__(self, settings: KafkaSettings, ledger: Ledger, *, clock: Clock | None = None) -> None:
        self._settings = settings
        self._topic = settings.topics.dead_letters
        self._ledger = ledger
        self._clock: Clock = clock or SystemClock()
        self._log = get_logger(bootstrap=settings.bootstrap)
        self._lock = threading.Lock()
        self._producer: Producer | None = None

    def put(self, record: Record, code: str, reason: str) -> StoredAt:
        """Keep one record; see `put_all`."""
        return self.put_all([Letter(record, code, reason)])[0]

    def put_unreadable(self, records: Sequence[Record]) -> list[tuple[Record, StoredAt]]:
        """Keep records that are no messages of the contract; see `put_all`."""
        places = self.put_all([Letter(record, UNREADABLE, record.fault) for record in records])
        return list(zip(records, places, strict=True))

    def put_all(self, letters: Sequence[Letter]) -> list[StoredAt]:
        """Keep records; durable when this returns.

        Returns:
            Where each is, in their order.

        Raises:
            TransientError: Kafka does not answer, or the disk fails; none counts as kept.
            PermanentError: the ledger is damaged.
        """
        with self._lock:
            known = self._ledger.known([letter.record for letter in letters])
            fresh = list({letter.record.key: letter for letter in letters if letter.record.key not in known}.values())
            places = known | dict(zip((letter.record.key for letter in fresh), self._keep(fresh), strict=True))
            return [places[letter.record.key] for letter in letters]

    def close(self) -> None:
        """Let go of the connection; the next record makes a new one."""
        with self._lock:
            self._producer = None

    # --- with the lock -----------------------------------------------------------------------------------------

    def _keep(self, letters: Sequence[Letter]) -> list[StoredAt]:
        outcomes = self._send([self._message_of(letter) for letter in letters])
        for number, outcome in enumerate(outcomes):
            # A batch fails as a whole, with the error of one of its records: each gets another try, alone.
            if isinstance(outcome, KafkaError) and outcome.code() in RECORD_ERRORS and len(letters) > 1:
                outcomes[number] = self._send([self._message_of(letters[number])])[0]
        for outcome in outcomes:
            if isinstance(outcome, KafkaError) and outcome.code() not in RECORD_ERRORS | TOPIC_ERRORS:
                self._producer = None
                raise TransientError(f"Kafka does not take dead letters now: {outcome.str()}")
        delivered = [(letter.record, at) for letter, at in zip(letters, outcomes, strict=True) if isinstance(at, str)]
        at = self._ledger.add(delivered)
        kept = [letter for letter, outcome in zip(letters, outcomes, strict=True) if isinstance(outcome, str)]
        for about in _by_cause(kept):
            self._log.error("kafka.dead_letters", topic=self._topic, **about)
        return [
            StoredAt(_SINK, outcome, at) if isinstance(outcome, str) else self._quarantine(letter, outcome)
            for letter, outcome in zip(letters, outcomes, strict=True)
        ]

    def _quarantine(self, letter: Letter, error: KafkaError) -> StoredAt:
        reason = f"{letter.reason}; nor does {self._topic} take it: {error.str()}"
        place = self._ledger.quarantine(letter.record, letter.code, reason)
        if error.code() in RECORD_ERRORS:
            # Best effort: whoever looks into the topic finds that there is more.
            self._send([self._message_of(letter, whole_at=place.location)])
        self._log.error(
            "kafka.quarantined",
            code=letter.code,
            event_id=letter.record.event_id,
            reason=reason,
            location=place.location,
        )
        return place

    def _message_of(self, letter: Letter, whole_at: str = "") -> tuple[str, bytes, list[Header]]:
        """Key, value and headers; without the value where the whole record is elsewhere."""
        record = letter.record
        headers = [*_identity_headers(record, self._settings)]
        headers += [
            (f"{_PREFIX}topic", kafka_record(record, self._settings).topic),
            (f"{_PREFIX}bus-topic", record.bus_topic),
            (f"{_PREFIX}code", letter.code),
            (f"{_PREFIX}reason", letter.reason),
            (f"{_PREFIX}at", utc_text(self._clock.now())),
            *([(f"{_PREFIX}whole-at", whole_at)] if whole_at else []),
        ]
        return f"{record.site}/{record.camera}", b"" if whole_at else record.value, headers

    def _send(self, messages: Sequence[tuple[str, bytes, list[Header]]]) -> list[str | KafkaError]:
        self._producer = self._producer or _make_producer(self._settings)
        return _produced(self._producer, [KafkaRecord(self._topic, *message) for message in messages])


def _by_cause(letters: Sequence[Letter]) -> Iterator[Mapping[str, str | int]]:
    """What the log says of them: one line a cause, however many there are."""
    for code, count in Counter(letter.code for letter in letters).items():
        first = next(letter for letter in letters if letter.code == code)
        yield {"code": code, "count": count, "event_id": first.record.event_id, "reason": first.reason}


def _make_producer(settings: KafkaSettings) -> Producer:
    return Producer(
        {
            **client_config(settings),
            "enable.idempotence": True,
            "acks": "all",
            "delivery.timeout.ms": int(_TIMEOUT_S * 1e3),
            "topic.metadata.propagation.max.ms": 2_000,
            "linger.ms": 1,
            "compression.type": "lz4",
            "message.max.bytes": MESSAGE_BYTES_MAX,
            "partitioner": "murmur2_random",
            "error_cb": lambda _error: None,  # the outcome says it
        }
    )


def _produced(producer: Producer, messages: Sequence[KafkaRecord]) -> list[str | KafkaError]:
    """Where each landed, or why it did not."""
    outcomes: list[str | KafkaError] = [KafkaError(KafkaError._TIMED_OUT)] * len(messages)  # noqa: SLF001

    def hear(number: int, error: KafkaError | None, message: Message) -> None:
        outcomes[number] = error or f"{message.topic()}/{message.partition()}/{message.offset()}"

    for number, (topic, key, value, headers) in enumerate(messages):
        try:
            producer.produce(topic, value, key, headers=headers, on_delivery=partial(hear, number))
        except BufferError as error:
            raise TransientError("Kafka does not take them fast enough") from error
        except KafkaException as error:
            outcomes[number] = error_of(error)
    producer.flush(2 * _TIMEOUT_S)
    return outcomes


def send_back(settings: KafkaSettings, records: Sequence[KafkaRecord]) -> Iterator[tuple[str, str]]:
    """Bring records where they belong.

    Yields:
        For each, in order, where it landed; or nothing, and why it did not.
    """
    producer = _make_producer(settings)
    for start in range(0, len(records), _AT_ONCE):
        for outcome in _produced(producer, records[start : start + _AT_ONCE]):
            yield (outcome, "") if isinstance(outcome, str) else ("", f"{outcome.name()}: {outcome.str()}")


def _identity_headers(record: Record, settings: KafkaSettings) -> Iterator[Header]:
    """Those of CloudEvents; what has no id that can be read is named after its bytes."""
    if record.event_id:
        yield from kafka_record(record, settings).headers
        return
    yield "ce_specversion", "1.0"
    yield "ce_id", record.digest.hex()
    yield "ce_type", _UNREADABLE_TYPE
    yield "ce_source", f"/vigil/{record.site}/{record.origin}"
    yield "ce_subject", record.camera
    yield "ce_time", record.at


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter, as it lies in its topic.

    Attributes:
        location: topic, partition and offset.
        key: of the record.
        value: of the record; empty where `whole_at` says where it is.
        headers: of the record, without those that are only a dead letter's.
        topic: where it belongs.
        bus_topic: where on the bus it came.
        code: what kind of error kept it out, in a word,
        reason: and in a sentence.
        at: when it was put there, as `utc_text` writes it.
        whole_at: where the whole record is, if it was too large.
    """

    location: str
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    topic: str
    bus_topic: str
    code: str
    reason: str
    at: str
    whole_at: str

    @property
    def event_id(self) -> str:
        """Its identity; empty where none can be read."""
        headers = dict(self.headers)
        is_readable = headers.get("ce_type") != _UNREADABLE_TYPE.encode()
        return headers.get("ce_id", b"").decode("utf-8", "replace") if is_readable else ""

    @property
    def record(self) -> KafkaRecord | None:
        """What it would have been; None where it is no message of the contract, or not whole."""
        if self.code == UNREADABLE or self.whole_at:
            return None
        return KafkaRecord(self.topic, self.key.decode("utf-8", "replace"), self.value, list(self.headers))


def dead_letters_in(settings: KafkaSettings) -> Iterator[DeadLetter]:
    """What is in the topic of dead letters, oldest first in each partition; nothing where there is no such topic.

    Raises:
        TransientError: no Kafka answers, or it stops answering.
        PermanentError: the topic may not be read.
    """
    _, cluster = connected_admin(settings)
    topic = cluster.topics.get(settings.topics.dead_letters)
    if topic is not None:
        yield from map(_read, read_committed(settings, [(settings.topics.dead_letters, n) for n in topic.partitions]))


def _read(message: Message) -> DeadLetter:
    listed = cast("list[tuple[str, bytes | None]]", message.headers() or [])  # so they always come back
    headers = [(name, value or b"") for name, value in listed]
    about = {name: value.decode("utf-8", "replace") for name, value in headers if name.startswith(_PREFIX)}
    return DeadLetter(
        location=f"{message.topic()}/{message.partition()}/{message.offset()}",
        key=message.key() or b"",
        value=message.value() or b"",
        headers=tuple((name, value) for name, value in headers if name not in about),
        topic=about.get(f"{_PREFIX}topic", ""),
        bus_topic=about.get(f"{_PREFIX}bus-topic", ""),
        code=about.get(f"{_PREFIX}code", ""),
        reason=about.get(f"{_PREFIX}reason", ""),
        at=about.get(f"{_PREFIX}at", ""),
        whole_at=about.get(f"{_PREFIX}whole-at", ""),
    )
