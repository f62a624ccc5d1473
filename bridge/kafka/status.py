"""States and health as records of Kafka: a state's key is its topic on the bus, so the latest of each is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache, partial

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from bridge.kafka.client import client_config, error_of
from bridge.kafka.records import Header, cloud_event, event_type
from bridge.kafka.topics import TopicBook, TopicNeed
from bridge.status_feed import STATES, Status
from broker.topics import TopicSpec
from config import get_logger
from config.outside import KafkaTopics
from config.settings import KafkaSettings

__all__ = ["KafkaStatusWriter", "status_record"]

_QUEUE_ROWS = 1_000
_DELIVER_WITHIN_MS = 30_000
"""After that the latest waits in the feed, where there is one of each."""
_CACHED = 4_096


class KafkaStatusWriter:
    """Writes states into a compacted topic, and health into another.

    A state that is taken back becomes a tombstone: a record without a value, after which Kafka forgets its key.

    Concurrency: one thread; its errors are said by the sink, which knows the same cluster.

    Args:
        settings: where Kafka is, and the topics.
        site: the site whose they are.
        lines: lines of the contract that are written.
    """

    def __init__(self, settings: KafkaSettings, *, site: str, lines: Sequence[TopicSpec]) -> None:
        self._settings = settings
        self._needs = [_need_of(settings.topics, spec, site) for spec in lines]
        self._producer: Producer | None = None
        self._delivered = 0
        self._failed: list[Status] = []
        self._log = get_logger(bootstrap=settings.bootstrap)

    def open(self) -> None:
        """See that the topics are there and as they must be.

        Raises:
            TransientError: no Kafka answers.
            PermanentError: a topic is missing and cannot be created, or what must be compacted is not told apart.
        """
        TopicBook(self._settings, site="", lines=(), more=self._needs).ensure()
        self._producer = Producer(
            {
                **client_config(self._settings),
                "enable.idempotence": True,  # else an old state may come after a newer one
                "delivery.timeout.ms": _DELIVER_WITHIN_MS,
                "linger.ms": 50,
                "compression.type": "lz4",
                "queue.buffering.max.messages": _QUEUE_ROWS,
                "partitioner": "murmur2_random",  # as Java's
                "error_cb": lambda _error: None,
            }
        )

    def write(self, statuses: Sequence[Status]) -> int:
        """Hand them to the producer, as many as there is room for."""
        if self._producer is None:
            return 0
        for number, status in enumerate(statuses):
            topic, key, value, headers = status_record(status, self._settings.topics)
            try:
                self._producer.produce(
                    topic, key=key, value=value, headers=headers, on_delivery=partial(self._on_delivery, status)
                )
            except BufferError:
                return number
            except KafkaException as error:
                self._on_delivery(status, error_of(error), None)
        return len(statuses)

    def settle(self) -> tuple[int, list[Status]]:
        """What has become of those that were taken."""
        if self._producer is not None:
            self._producer.poll(0)
        delivered, self._delivered = self._delivered, 0
        failed, self._failed = self._failed, []
        return delivered, failed

    def close(self, timeout_s: float) -> None:
        """Wait at most `timeout_s` for those that are on their way."""
        if self._producer is not None:
            self._producer.flush(timeout_s)
            self._producer.purge()

    def _on_delivery(self, status: Status, error: KafkaError | None, _message: Message | None) -> None:
        if error is None:
            self._delivered += 1
            return
        self._failed.append(status)
        self._log.warning("status.unwritten", topic=str(status.topic), error=error.str())


def status_record(status: Status, topics: KafkaTopics) -> tuple[str, str, bytes | None, list[Header]]:
    """Topic, key, value and headers of a status."""
    spec, site = status.topic.spec, status.topic.site
    below = spec.fill(status.topic.params)
    key = f"{site}/{below}"
    fixed = cloud_event(spec, source=_source(status), subject=below)
    # The same for what a broker says again after a reconnect.
    identity = hashlib.sha256(key.encode() + b"\0" + status.payload).hexdigest()[:32]
    headers: list[Header] = [*fixed, ("ce_id", identity)]
    if status.at:
        headers.append(("ce_time", status.at))
    return _topic_of(topics, spec, site), key, status.payload or None, headers


def _source(status: Status) -> str:
    params = status.topic.params
    origin = f"/{params['node']}.{params['role']}" if "role" in params else ""
    return f"/vigil/{status.topic.site}{origin}"


@lru_cache(maxsize=_CACHED)
def _topic_of(topics: KafkaTopics, spec: TopicSpec, site: str) -> str:
    template = topics.state if spec in STATES else topics.health
    stream = event_type(spec).removeprefix("io.vigil.").removesuffix(".v1")
    return template.format(site=site, stream=stream)


def _need_of(topics: KafkaTopics, spec: TopicSpec, site: str) -> TopicNeed:
    topic = _topic_of(topics, spec, site)
    if spec in STATES:
        return TopicNeed(topic, "bridge.kafka.topics.state", "compact", spec.max_bytes)
    return TopicNeed(topic, "bridge.kafka.topics.health", "delete", spec.max_bytes)
