"""Kafka's topics: made or checked before anything is written."""

from __future__ import annotations

from collections.abc import Sequence

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined] # its stubs forget NewTopic
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from bridge.kafka.client import client_config, error_of
from broker.topics import TopicSpec
from config import PermanentError, TransientError, get_logger
from config.settings import KafkaSettings

__all__ = ["MESSAGE_BYTES_MAX", "ensure_topic"]

MESSAGE_BYTES_MAX = 2 * 1024 * 1024
"""The contract lets an escalation be 1 MiB; key, headers and the batch around them come on top."""
_BATCH_OVERHEAD_BYTES = 4_096


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
    client = client_config(settings)
    client["error_cb"] = lambda error: complaints.append(error.str())
    admin = AdminClient(client)
    try:
        topics = admin.list_topics(timeout=settings.connect_timeout_s).topics
    except KafkaException as error:
        admin.poll(0)
        reason = complaints[0] if complaints else error_of(error).str()
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
        config={"max.message.bytes": str(MESSAGE_BYTES_MAX)},
    )
    try:
        created = admin.create_topics([wanted], request_timeout=settings.connect_timeout_s)
        created[topic].result(settings.connect_timeout_s + 1.0)
    except KafkaException as error:
        reason = error_of(error)
        if reason.code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return
        raise PermanentError(
            f"Kafka at {settings.bootstrap} has no topic {topic!r} and does not let it be created "
            f"({reason.str()}): create it with max.message.bytes={MESSAGE_BYTES_MAX}, or name another "
            "in bridge.kafka.topics"
        ) from error
    get_logger().info("kafka.topic_created", topic=topic)


def _check_topic(admin: AdminClient, settings: KafkaSettings, topic: str, payload_bytes_max: int) -> None:
    """Say so when the topic does not take the largest message; such a one would be quarantined."""
    resource = ConfigResource(ResourceType.TOPIC, topic)
    try:
        asked = admin.describe_configs([resource], request_timeout=settings.connect_timeout_s)
        entry = asked[resource].result(settings.connect_timeout_s + 1.0)["max.message.bytes"]
    except KafkaException as error:
        get_logger().warning("kafka.topic_unchecked", topic=topic, error=error_of(error).str())
        return
    if int(entry.value) < payload_bytes_max + _BATCH_OVERHEAD_BYTES:
        get_logger().warning(
            "kafka.topic_small",
            topic=topic,
            max_message_bytes=int(entry.value),
            cure=f"set the topic's max.message.bytes to {MESSAGE_BYTES_MAX}: larger messages are quarantined",
        )
