"""A real Kafka for tests: Apache's own jars on Java, one node, on free ports of loopback."""

from __future__ import annotations

from tests.support.kafka.client import Kafka, Record
from tests.support.kafka.jars import why_no_kafka
from tests.support.kafka.security import Security
from tests.support.kafka.server import KafkaServer
from tests.support.kafka.tokens import TokenServer

__all__ = ["Kafka", "KafkaServer", "Record", "Security", "TokenServer", "why_no_kafka"]
