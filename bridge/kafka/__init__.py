"""Kafka: a sink, something that can be audited, and a source of commands.

No other folder imports confluent_kafka.

`client` is how anything here reaches the cluster, `topics` sees that its topics are there, `records` says what a
message of the bus is in Kafka, `sink` writes at least once, `reading` reads back.
"""

from bridge.kafka.reading import read_event_ids
from bridge.kafka.records import EVENT_TYPES
from bridge.kafka.sink import KafkaSink
from bridge.kafka.topics import ensure_topic

__all__ = ["EVENT_TYPES", "KafkaSink", "ensure_topic", "read_event_ids"]
