"""The ledger topic: what the mode ``exactly-once`` has written, in the cluster itself.

A record is a block of ids (see `written`); its key is ``{site}/{shard}/{block}``, its partition the shard's. The topic
is compacted: of each block only the last record stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined] # its stubs forget NewTopic
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from bridge.kafka.client import connected_admin, error_of
from bridge.kafka.committed import read_committed
from config import PermanentError, get_logger
from config.settings import KafkaSettings

__all__ = ["block_in", "ensure_ledger_topic", "ledger_key", "read_ledger"]

_TOPIC_CONFIG = {
    "cleanup.policy": "compact",
    # Kafka never compacts the segment that it writes to: smaller ones keep the start of a bridge short.
    "segment.bytes": str(16 * 1024 * 1024),
    "min.cleanable.dirty.ratio": "0.2",
}


def ledger_key(site: str, shard: int, block: str) -> str:
    """Key of a block in the ledger topic."""
    return f"{site}/{shard}/{block}"


def block_in(key: bytes | str | None) -> tuple[str, int, str] | None:
    """Site, shard and block of a key of the ledger topic; None where it is none."""
    text = key.decode("utf-8", "replace") if isinstance(key, bytes) else key or ""
    site, _, rest = text.partition("/")
    shard, _, block = rest.partition("/")
    return (site, int(shard), block) if shard.isdecimal() and block else None


def ensure_ledger_topic(settings: KafkaSettings, shards: int) -> int:
    """See that Kafka has the ledger topic, and that it is compacted; create it when it is missing.

    Returns:
        How many partitions it has.

    Raises:
        TransientError: no Kafka answers within ``bridge.kafka.connect_timeout_s``.
        PermanentError: it cannot be created, or it forgets.
    """
    topic = settings.topics.ledger
    admin, cluster = connected_admin(settings)
    if topic in cluster.topics:
        _check(admin, settings)
        return len(cluster.topics[topic].partitions)
    wanted = NewTopic(topic, num_partitions=shards, replication_factor=-1, config=_TOPIC_CONFIG)
    try:
        admin.create_topics([wanted], request_timeout=settings.connect_timeout_s)[topic].result()
    except KafkaException as error:
        if error_of(error).code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return ensure_ledger_topic(settings, shards)
        raise PermanentError(
            f"Kafka at {settings.bootstrap} has no topic {topic!r} and does not let it be created "
            f"({error_of(error).str()}): create it with cleanup.policy=compact and {shards} partitions, or name "
            "another in bridge.kafka.topics.ledger"
        ) from error
    get_logger().info("kafka.topic_created", topic=topic)
    return shards


def _check(admin: AdminClient, settings: KafkaSettings) -> None:
    topic = settings.topics.ledger
    resource = ConfigResource(ResourceType.TOPIC, topic)
    try:
        asked = admin.describe_configs([resource], request_timeout=settings.connect_timeout_s)
        policy = asked[resource].result()["cleanup.policy"].value
    except KafkaException as error:
        get_logger().warning("kafka.topic_unchecked", topic=topic, error=error_of(error).str())
        return
    if policy != "compact":
        raise PermanentError(
            f"topic {topic!r} has cleanup.policy={policy}: it would forget what was written, and a message that is "
            "sent again would be there twice; set cleanup.policy=compact, or name another in bridge.kafka.topics.ledger"
        )


def read_ledger(
    settings: KafkaSettings, partition: int, stopped: Callable[[], bool] = lambda: False
) -> Iterator[tuple[bytes, bytes | None]]:
    """Everything committed in one partition of the ledger topic, to the end that it has now.

    Call it after `init_transactions`: the predecessor's open transaction is then over.

    Yields:
        Key and value, None where a block is forgotten.

    Raises:
        TransientError: Kafka stopped answering, or the transaction of another shard stays open.
        PermanentError: it may not be read.
    """
    for message in read_committed(settings, [(settings.topics.ledger, partition)], stopped):
        yield message.key() or b"", message.value()
