"""Kafka as a sink, exactly once: whoever reads with ``isolation.level=read_committed`` sees each message once.

The cameras are split into shards (`bridge.shards`); each shard that this bridge has is written by a transactional
producer of its own. Nothing is reported before its transaction is committed.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence

from bridge.kafka.dead_letters import DeadLetters
from bridge.kafka.ledger_topic import ensure_ledger_topic
from bridge.kafka.shard_writer import ShardWriter
from bridge.kafka.topics import TopicBook
from bridge.ledger import Ledger
from bridge.marks import Mark, StreamKey
from bridge.shards import shard_of
from bridge.sink import ESCALATIONS, EVENTS, OnStored, Record
from broker import Distribution
from broker.topics import TopicSpec
from config import Clock, SystemClock, get_logger
from config.settings import KafkaSettings

__all__ = ["ExactKafkaSink"]


class ExactKafkaSink:
    """Escalations and events, each once into its topic.

    It has no shard at first: `gain` and `lose` say which. Records of a shard that it has not yet are not taken, and
    those of one that it has no more are forgotten: nobody waits for its word on them.

    Concurrency: one thread writes; `gain` and `lose` may come from any; reports come from a thread a shard.

    Args:
        settings: where Kafka is, and the topics.
        site: the site whose messages these are.
        shards: into how many the cameras are split.
        ledger: knows the dead letters, and keeps those that Kafka does not take either.
        events: lines of the contract that come besides escalations.
        reported: counts how long each transaction takes.
        clock: time.
        on_fatal: called with the error after which nothing more can be reported.
        on_fenced: told of a shard that another bridge has taken; without `lose` it is taken back after a pause.
    """

    name = "kafka"

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        site: str,
        ledger: Ledger,
        shards: int = 1,
        events: Sequence[TopicSpec] = EVENTS,
        reported: Distribution | None = None,
        clock: Clock | None = None,
        on_fatal: Callable[[Exception], None] | None = None,
        on_fenced: Callable[[int], None] = lambda _shard: None,
    ) -> None:
        self._settings = settings
        self._site = site
        self._ledger = ledger
        self._reported = reported or Distribution()
        self._shards = shards
        self._dead_letters = DeadLetters(settings, ledger, clock=clock)
        self._book = TopicBook(settings, site=site, lines=(*ESCALATIONS, *events))
        self._clock: Clock = clock or SystemClock()
        self._on_fatal = on_fatal
        self._on_fenced = on_fenced
        self._log = get_logger(bootstrap=settings.bootstrap)
        self._partitions = 1
        self._lock = threading.Lock()
        self._writers: dict[int, ShardWriter] = {}
        self._lost: set[int] = set()
        self._on_stored: OnStored = lambda _stored: None

    def open(self, on_stored: OnStored) -> None:
        """Open the quarantine, and see that Kafka answers and has the topics.

        Raises:
            TransientError: no Kafka answers within ``bridge.kafka.connect_timeout_s``, or the disk fails.
            PermanentError: a topic is missing and cannot be created, or is not as it must be.
        """
        self._on_stored = on_stored
        self._ledger.open()
        self._book.ensure()
        self._partitions = ensure_ledger_topic(self._settings, self._shards)
        self._log.info("kafka.ready", mode=self._settings.mode)

    def gain(self, shard: int) -> None:
        """Take a shard over: whoever had it is fenced, and what it has written is read; `ready` says when."""
        writer = ShardWriter(
            shard,
            shard % self._partitions,
            settings=self._settings,
            site=self._site,
            on_stored=self._on_stored,
            put_aside=self._dead_letters.put_all,
            reported=self._reported,
            clock=self._clock,
            on_fatal=self._on_fatal,
            on_fenced=self._on_fenced,
        )
        with self._lock:
            predecessor = self._writers.get(shard)
            self._writers[shard] = writer
            self._lost.discard(shard)
        if predecessor is not None:
            predecessor.leave()
        writer.start()

    def lose(self, shard: int) -> None:
        """Give a shard away; what is on its way is finished, as far as the successor lets it."""
        with self._lock:
            writer = self._writers.pop(shard, None)
            self._lost.add(shard)
        if writer is not None:
            writer.leave()

    def ready(self, shard: int) -> bool:
        """Whether the shard is ours, as Kafka sees it, and is written to."""
        writer = self._writers.get(shard)
        return writer is not None and writer.ready

    def write(self, records: Sequence[Record]) -> int:
        """Hand records to the writers of their shards, until there is no room in one.

        Raises:
            TransientError: a camera's topic cannot be made now.
        """
        self._book.prepare(records)
        taken = 0
        touched: set[ShardWriter] = set()
        with self._lock:
            for record in records:
                shard = shard_of(record.camera, self._shards)
                writer = self._writers.get(shard)
                if writer is not None and writer.offer(record):
                    touched.add(writer)
                elif shard not in self._lost:
                    break
                taken += 1
        for writer in touched:
            writer.wake()
        return taken

    def gaps(self) -> Counter[tuple[str, str]]:
        """How many sequences Kafka lacks between the lowest and the highest that is remembered.

        Nothing as long as other bridges have a share of the cameras: what this one lacks they have.
        """
        writers = list(self._writers.values())
        if len(writers) < self._shards or not all(writer.ready for writer in writers):
            return Counter()
        marks: dict[StreamKey, Mark] = {}
        for writer in writers:
            for key, mark in writer.written.marks().items():
                marks[key] = mark.joined(marks[key]) if key in marks else mark
        found = Counter[tuple[str, str]]()
        for (stream, origin, _), mark in marks.items():
            if mark.gaps:
                found[stream, origin] += mark.gaps
        return found

    def close(self, timeout_s: float) -> None:
        """Finish what was taken within `timeout_s`; what is left is not reported, so it is sent again."""
        deadline_s = self._clock.monotonic_s() + timeout_s
        for writer in self._writers.values():
            writer.leave()
        for writer in self._writers.values():
            writer.close(max(0.0, deadline_s - self._clock.monotonic_s()))
        self._dead_letters.close()
        self._ledger.close()
