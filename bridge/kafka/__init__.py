"""Kafka: a sink, something that can be audited, and a source of commands.

No other folder imports confluent_kafka.

`client` is how anything here reaches the cluster, `topics` sees that its topics are there, `records` says what a
message of the bus is in Kafka, `sink` writes at least once, `exact` once, `reading` reads back, `consuming` takes
commands.
"""

from bridge.kafka.cluster import cluster_id
from bridge.kafka.consuming import CameraTopic, CommandTopic, ensure_command_topics
from bridge.kafka.dead_letters import DeadLetter, dead_letters_in, send_back
from bridge.kafka.exact import ExactKafkaSink
from bridge.kafka.reading import read_dead_letters, read_event_ids, read_written
from bridge.kafka.records import EVENT_TYPES, KafkaRecord, kafka_record
from bridge.kafka.sink import KafkaSink
from bridge.kafka.status import KafkaStatusWriter
from bridge.kafka.topics import TopicBook

__all__ = [
    "EVENT_TYPES",
    "CameraTopic",
    "CommandTopic",
    "DeadLetter",
    "ExactKafkaSink",
    "KafkaRecord",
    "KafkaSink",
    "KafkaStatusWriter",
    "TopicBook",
    "cluster_id",
    "dead_letters_in",
    "ensure_command_topics",
    "kafka_record",
    "read_dead_letters",
    "read_event_ids",
    "read_written",
    "send_back",
]
