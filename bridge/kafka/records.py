"""What a message of the bus is in Kafka: its topic, key, headers and value.

Source: CloudEvents 1.0, Kafka protocol binding, binary content mode.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from bridge.sink import ESCALATIONS, EVENTS, Record
from bridge.tracing import captured_at_of
from broker.schemas import schema_uri
from broker.topics import CONTRACT, TopicSpec
from broker.tracing import traceparent_of
from config.outside import KafkaTopics
from config.settings import KafkaSettings

__all__ = ["EVENT_TYPES", "Header", "KafkaRecord", "cloud_event", "event_type", "kafka_record", "topic_of"]

Header = tuple[str, str | bytes | None]
_SPECS = {spec.name: spec for spec in CONTRACT}
_CACHED = 4_096
"""Pairs of a line and a camera whose topic, key and headers are kept: what a large site has, and no stranger fills."""


def event_type(spec: TopicSpec) -> str:
    """The CloudEvents type of a line of the contract."""
    return f"io.vigil.{spec.name.removeprefix('camera_')}.v1"


EVENT_TYPES = {spec.name: event_type(spec) for spec in ESCALATIONS + EVENTS}
"""CloudEvents type of what has an identity, by line of the contract."""


class KafkaRecord(NamedTuple):
    """One record, as a producer takes it."""

    topic: str
    key: str
    value: bytes
    headers: list[Header]


def kafka_record(record: Record, settings: KafkaSettings) -> KafkaRecord:
    """What a record of the bus is in Kafka.

    Concurrency: any thread; what repeats for each camera and line is made once.
    """
    topic, key, fixed = _repeating(settings.topics, record.stream, record.site, record.camera, record.origin)
    headers = [*fixed, ("ce_id", record.event_id), ("ce_time", record.at), ("traceparent", _traceparent(record))]
    if record.details.get("drill"):
        # Only on drills, so that a consumer can leave them out without reading the value.
        headers.append(("ce_drill", "true"))
    return KafkaRecord(topic, key, record.value, headers)


def _traceparent(record: Record) -> str:
    """With which whoever reads it continues the trace of its picture."""
    return traceparent_of(record.site, record.camera, captured_at_of(record), step="forward", of=record.event_id)


@lru_cache(maxsize=_CACHED)
def _repeating(
    topics: KafkaTopics, stream: str, site: str, camera: str, origin: str
) -> tuple[str, str, tuple[Header, ...]]:
    """Topic, key (records of one camera stay in order) and the headers that all records of a camera share."""
    fixed = cloud_event(_SPECS[stream], source=f"/vigil/{site}/{origin}", subject=camera)
    return topic_of(topics, stream, site, camera), f"{site}/{camera}", fixed


def cloud_event(spec: TopicSpec, *, source: str, subject: str) -> tuple[Header, ...]:
    """The attributes that do not change from message to message."""
    schema = (("ce_dataschema", schema_uri(spec.payload)),) if spec.payload is not None else ()
    return (
        ("ce_specversion", "1.0"),
        ("ce_type", event_type(spec)),
        ("ce_source", source),
        ("ce_subject", subject),
        *schema,
        ("content-type", str(spec.kind)),
    )


def topic_of(topics: KafkaTopics, stream: str, site: str, camera: str) -> str:
    """The topic in Kafka that a line of the contract goes to."""
    short = stream.removeprefix("camera_")
    template: str = getattr(topics, short)
    return template.format(site=site, camera=camera, stream=short)
