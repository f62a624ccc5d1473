"""One shard in the mode ``exactly-once``: a transactional producer, what it has written, and a thread.

A transaction is a batch of records and the blocks of ids that they belong to (see `written`). Kafka commits both or
neither, so a successor that reads the ledger topic knows what its predecessor has written, to the last record. It
fences that predecessor first: two writers with one `transactional.id` are never both heard.

Whether Kafka has heard a commit that was not answered nobody can say but the ledger topic: the writer then begins anew,
as a successor of itself.

Source: KIP-98 (transactions), KIP-447; librdkafka's INTRODUCTION.md on the transactional producer.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from bridge.kafka.client import client_config, error_of
from bridge.kafka.dead_letters import RECORD_ERRORS, TOPIC_ERRORS, UNREADABLE, Letter
from bridge.kafka.ledger_topic import block_in, ledger_key, read_ledger
from bridge.kafka.records import kafka_record, topic_of
from bridge.kafka.topics import MESSAGE_BYTES_MAX
from bridge.kafka.written import Changes, Written
from bridge.sink import OnStored, Record, StoredAt
from broker import Distribution
from config import Backoff, Clock, PermanentError, Supervised, TransientError, get_logger
from config.settings import KafkaSettings

__all__ = ["PutAside", "ShardWriter"]

_ROWS_WAITING_MAX = 10_000
_ROWS = 1_000
_BYTES = 8_000_000
"""Of a transaction: it is in memory twice, here and in librdkafka."""
_SINK = "kafka"
_IDLE_S = 0.2
_RETRY_S = 0.05
_STEP_S = 0.5
"""A call into librdkafka returns within so long, to see whether it is to stop."""
_TRANSACTION_TIMEOUT_MS = 30_000
"""After so long Kafka ends what a dead bridge left open, where no successor does it earlier; until then readers with
read_committed see nothing that was written to the same partitions after it."""
_FENCED_PAUSE_S = 3.0
_ASK_AGAIN_S = 10.0
"""A topic that is refused for good is tried again so often, should somebody have cured it."""
_FENCED = frozenset(
    {
        KafkaError._FENCED,  # noqa: SLF001 - librdkafka's own codes begin with an underscore
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
    }
)
_HOPELESS = {
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "allow this user to describe and write the transactional id",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "allow this user idempotent writes",
    KafkaError.INVALID_TRANSACTION_TIMEOUT: "raise the cluster's transaction.max.timeout.ms to 30000",
    KafkaError._UNSUPPORTED_FEATURE: "use a Kafka of 2.5 or later, or bridge.kafka.mode: at-least-once",  # noqa: SLF001
}
_Key = tuple[str, bytes]
PutAside = Callable[[Sequence[Letter]], Sequence[StoredAt]]
"""Keeps records that Kafka will never take where they belong; durable when it returns."""


@dataclass(slots=True, eq=False)
class _Transaction:
    """What Kafka said of one transaction.

    Attributes:
        locations: where the records landed, by their keys.
        failed: those that it did not take.
        error: why it is aborted, where that is known.
    """

    locations: dict[_Key, str] = field(default_factory=dict)
    failed: list[tuple[Record, KafkaError]] = field(default_factory=list)
    error: KafkaError | None = None

    def hear(self, record: Record, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self.locations[record.key] = f"{message.topic()}/{message.partition()}/{message.offset()}"
        else:
            self.failed.append((record, error))


@dataclass(slots=True)
class _Refused:
    """A topic that takes nothing from us.

    Attributes:
        until_s: its records are tried again until then, and are dead letters after it.
        again_s: until then they are so without being tried; 0 as long as they are tried.
    """

    error: KafkaError
    until_s: float
    again_s: float = 0.0


class ShardWriter:
    """Writes the records of one shard, each once.

    Concurrency: `offer` comes from one thread; everything else happens on the thread of this object, which also
    reports through `on_stored`.

    Args:
        shard: its number.
        partition: of the ledger topic.
        settings: where Kafka is.
        site: the site whose shard it is.
        on_stored: told of what is committed.
        put_aside: for what Kafka never takes.
        reported: counts how long each transaction takes.
        clock: time.
        on_fatal: called with the error after which nothing more can be written.
        on_fenced: told when another bridge has taken the shard.
    """

    def __init__(
        self,
        shard: int,
        partition: int,
        *,
        settings: KafkaSettings,
        site: str,
        on_stored: OnStored,
        put_aside: PutAside,
        reported: Distribution,
        clock: Clock,
        on_fatal: Callable[[Exception], None] | None,
        on_fenced: Callable[[int], None],
    ) -> None:
        self._shard = shard
        self._partition = partition
        self._settings = settings
        self._site = site
        self._on_stored = on_stored
        self._put_aside = put_aside
        self._reported = reported
        self._on_fenced = on_fenced
        self._clock = clock
        self._log = get_logger(shard=shard, bootstrap=settings.bootstrap)
        self._waiting: deque[Record] = deque()
        self._work = threading.Event()
        self._closing = threading.Event()
        self._stop = threading.Event()
        self._producer: Producer | None = None
        self._written = Written()
        self._rows_max = _ROWS
        self._aside: dict[_Key, StoredAt] = {}
        self._refused: dict[str, _Refused] = {}
        self._away = False
        self._thread = Supervised(
            f"kafka.{shard}",
            self._run_once,
            stop=self._stop,
            on_fatal=on_fatal,
            backoff=Backoff(0.25, 4.0),
            clock=clock,
        )

    def start(self) -> None:
        """Fence whoever had the shard, read what it has written, and take records."""
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether the shard is ours and what was written in it is known."""
        return self._producer is not None

    @property
    def written(self) -> Written:
        """What is in the ledger topic."""
        return self._written

    def offer(self, record: Record) -> bool:
        """Take a record; False when there is no room."""
        if len(self._waiting) >= _ROWS_WAITING_MAX or self._closing.is_set():
            return False
        self._waiting.append(record)
        return True

    def wake(self) -> None:
        """Say that records were offered."""
        self._work.set()

    def leave(self) -> None:
        """Take no more, write what was taken, and end."""
        self._closing.set()
        self._work.set()

    def close(self, timeout_s: float) -> None:
        """Wait for the end at most `timeout_s`; what is left is not reported, so it is sent again."""
        self.leave()
        if not self._thread.join(timeout_s):
            self._stop.set()
            self._thread.join(2 * _STEP_S)

    # --- the thread --------------------------------------------------------------------------------------------

    def _run_once(self) -> None:
        if self._producer is None:
            if self._closing.is_set():
                self._stop.set()
                return
            self._producer = self._begun()
            if self._stop.is_set():
                return  # it may have been stopped before it knew everything
        batch = self._next_batch()
        if batch:
            self._write(self._producer, batch)
        elif self._closing.is_set():
            self._stop.set()

    def _begun(self) -> Producer:
        """Fence the predecessor, and learn what it has written."""
        producer = Producer(
            {
                **client_config(self._settings),
                "transactional.id": f"vigil-{self._site}-{self._shard}",
                "transaction.timeout.ms": _TRANSACTION_TIMEOUT_MS,
                "linger.ms": 1,
                "socket.nagle.disable": True,
                "compression.type": "lz4",
                "message.max.bytes": MESSAGE_BYTES_MAX,
                "topic.metadata.propagation.max.ms": 5_000,  # by then a topic that was just made is known
                "partitioner": "murmur2_random",  # as Java's, so that others may write to the same keys
                "error_cb": self._on_error,
            }
        )
        try:
            self._insist(producer.init_transactions)
        except KafkaException as error:
            raise self._explained(error_of(error)) from error
        written = Written()
        for key, value in read_ledger(self._settings, self._partition, self._stop.is_set):
            place = block_in(key)
            if place is not None and place[:2] == (self._site, self._shard):
                written.load(place[2], value)
        self._written = written
        self._note_success()
        self._log.info("kafka.shard_gained", blocks=len(written))
        return producer

    def _next_batch(self) -> list[Record]:
        self._work.wait(_IDLE_S)
        self._work.clear()
        batch: list[Record] = []
        size = 0
        while self._waiting and len(batch) < self._rows_max and size < _BYTES:
            record = self._waiting.popleft()
            size += len(record.value)
            batch.append(record)
        if self._waiting:
            self._work.set()
        return batch

    def _write(self, producer: Producer, batch: Sequence[Record]) -> None:
        """Write what was not written before, then report everything; or put it all back in its place."""
        stored: list[tuple[Record, StoredAt]] = []
        try:
            fresh = {record.key: record for record in batch if not self._written.has(record)}
            places = self._transact(producer, list(fresh.values())) if fresh else {}
            if places is not None:
                now = self._clock.now()
                # Of two that are the same in one batch the first is the one that was written.
                stored = [
                    (record, places.pop(record.key) if record.key in places else self._repeated(record, now))
                    for record in batch
                ]
        finally:
            if not stored:
                self._waiting.extendleft(reversed(batch))
                self._work.set()
        self._on_stored(stored)

    def _repeated(self, record: Record, now: datetime) -> StoredAt:
        """The ledger knows that it was written, not where in the topic."""
        return StoredAt(_SINK, self._topic_of(record), now, repeated=True)

    def _transact(self, producer: Producer, records: Sequence[Record]) -> dict[_Key, StoredAt] | None:
        """Write records and their blocks in one transaction.

        Returns:
            Where each landed; None when nothing is committed, and there is something else to be tried.

        Raises:
            TransientError: to be tried again after a pause; the producer may have been given up.
        """
        self._set_aside([Letter(record, UNREADABLE, record.fault) for record in records if record.fault])
        self._set_aside([letter for record in records if (letter := self._letter_of_refused(record))])
        transaction, began_s = _Transaction(), self._clock.monotonic_s()
        changes = self._written.note(records)
        try:
            producer.begin_transaction()
            self._produce(producer, transaction, records, changes)
            if not transaction.failed:
                self._insist(producer.commit_transaction)
        except KafkaException as error:
            reason = error_of(error)
            if not reason.txn_requires_abort():
                raise self._given_up(reason) from error
            transaction.error = reason
        if transaction.failed or transaction.error is not None:
            self._abort(producer)
            self._judge(records, transaction)
            return None
        self._reported.note(self._clock.monotonic_s() - began_s)
        self._written.accept(changes)
        self._note_success(records)
        return self._places(records, transaction)

    def _abort(self, producer: Producer) -> None:
        """End a transaction as if it had never been.

        Where Kafka refused its very first request, there is none that it could end, which is fatal to librdkafka: a new
        producer follows, and what was learned of the records stays true.
        """
        try:
            self._insist(producer.abort_transaction)
        except KafkaException as error:
            self._given_up(error_of(error))

    def _produce(
        self, producer: Producer, transaction: _Transaction, records: Sequence[Record], changes: Changes
    ) -> None:
        for record in records:
            if record.key in self._aside:
                continue
            sent = kafka_record(record, self._settings)
            hear = partial(transaction.hear, record)
            try:
                producer.produce(sent.topic, value=sent.value, key=sent.key, headers=sent.headers, on_delivery=hear)
            except KafkaException as error:
                transaction.failed.append((record, error_of(error)))
        for block, value in changes.items():
            producer.produce(
                self._settings.topics.ledger,
                value=value,
                key=ledger_key(self._site, self._shard, block),
                partition=self._partition,
            )

    def _insist(self, step: Callable[[float], None]) -> None:
        """Call a step of a transaction until it is done: one that ran out of time goes on where it was.

        Raises:
            KafkaException: it failed.
            TransientError: this object is asked to stop.
        """
        while not self._stop.is_set():
            try:
                return step(_STEP_S)
            except KafkaException as error:
                if not error_of(error).retriable():
                    raise
                self._clock.wait(self._stop, _RETRY_S)
        raise TransientError("the bridge is ending with a transaction open: the next one ends it")

    def _places(self, records: Sequence[Record], transaction: _Transaction) -> dict[_Key, StoredAt]:
        now = self._clock.now()
        aside = {record.key: self._aside.pop(record.key) for record in records if record.key in self._aside}
        return {key: StoredAt(_SINK, location, now) for key, location in transaction.locations.items()} | aside

    # --- what goes wrong ---------------------------------------------------------------------------------------

    def _judge(self, records: Sequence[Record], transaction: _Transaction) -> None:
        """What to do about an aborted transaction: put aside what Kafka never takes, else find it, else wait.

        A batch of the client fails as a whole, with the error of one of its records: half as many are tried then,
        until it is one alone.

        Raises:
            TransientError: wait before the next try.
        """
        errors = [error for _, error in transaction.failed] + ([transaction.error] if transaction.error else [])
        culprit = next((error for error in errors if error.code() in RECORD_ERRORS | TOPIC_ERRORS), None)
        if culprit is None:
            raise TransientError(f"Kafka took none of {len(records)} records: {errors[0].str()}")
        if len(records) > 1:
            self._rows_max = max(1, len(records) // 2)
        elif culprit.code() in RECORD_ERRORS:
            self._set_aside([Letter(records[0], culprit.name(), culprit.str())])
        else:
            self._note_refused(records[0], culprit)

    def _note_refused(self, record: Record, error: KafkaError) -> None:
        """A person may cure it: it is tried again for a while, and then now and then."""
        topic, now_s = self._topic_of(record), self._clock.monotonic_s()
        refused = self._refused.get(topic)
        if refused is None:
            self._refused[topic] = _Refused(error, now_s + self._settings.refusal_s)
            self._log.error("kafka.refused", topic=topic, error=error.str(), for_s=self._settings.refusal_s)
        elif refused.until_s <= now_s:
            refused.again_s = now_s + max(_ASK_AGAIN_S, self._settings.refusal_s)
            return
        raise TransientError(f"topic {topic!r} is refused: {error.str()}")

    def _letter_of_refused(self, record: Record) -> Letter | None:
        """A record whose topic is refused for so long that nobody is likely to cure it soon."""
        if not self._refused:
            return None
        refused = self._refused.get(self._topic_of(record))
        if refused is None or self._clock.monotonic_s() >= refused.again_s:
            return None
        return Letter(record, refused.error.name(), refused.error.str())

    def _topic_of(self, record: Record) -> str:
        return topic_of(self._settings.topics, record.stream, record.site, record.camera)

    def _set_aside(self, letters: Sequence[Letter]) -> None:
        """Keep records elsewhere; the next transaction notes that they are done."""
        fresh = [letter for letter in letters if letter.record.key not in self._aside]
        if fresh:
            places = self._put_aside(fresh)
            self._aside.update((letter.record.key, at) for letter, at in zip(fresh, places, strict=True))

    def _given_up(self, error: KafkaError) -> TransientError:
        """Let go of a producer that can go on no more; the next one asks the ledger what it has achieved."""
        self._producer = None
        if error.code() not in _FENCED:
            self._log.error("kafka.producer_renewed", reason=error.str())
            return TransientError(f"the transaction failed ({error.str()})")
        self._log.error("kafka.fenced", reason=error.str())
        self._on_fenced(self._shard)
        return TransientError("another bridge has this shard", retry_after_s=_FENCED_PAUSE_S)

    def _explained(self, error: KafkaError) -> TransientError | PermanentError:
        """Why there is no producer."""
        cure = _HOPELESS.get(error.code())
        if cure is not None:
            return PermanentError(f"Kafka at {self._settings.bootstrap} takes no transactions ({error.str()}): {cure}")
        return TransientError(f"no transactional producer for shard {self._shard} ({error.str()})")

    def _on_error(self, error: KafkaError) -> None:
        if not error.fatal():
            self._away = True
            self._log.warning("kafka.unreachable", error=error.str())

    def _note_success(self, records: Sequence[Record] = ()) -> None:
        self._rows_max = min(_ROWS, 2 * self._rows_max)
        for record in records if self._refused else ():
            if record.key not in self._aside:
                self._refused.pop(self._topic_of(record), None)
        if self._away:
            self._away = False
            self._log.info("kafka.back")
