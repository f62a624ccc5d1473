"""What a message of the bus is in Kafka: its topic, key and headers. The value is the message's JSON as it came.

Source: CloudEvents 1.0, Kafka protocol binding, binary content mode.
"""

from __future__ import annotations

from bridge.sink import ESCALATIONS, EVENTS, Record
from config.outside import KafkaTopics

__all__ = ["EVENT_TYPES", "headers_of", "key_of", "topic_of"]

EVENT_TYPES = {spec.name: f"io.vigil.{spec.name.removeprefix('camera_')}.v1" for spec in ESCALATIONS + EVENTS}
"""CloudEvents type by line of the contract."""


def topic_of(topics: KafkaTopics, stream: str, site: str, camera: str) -> str:
    """The topic in Kafka that a line of the contract goes to."""
    short = stream.removeprefix("camera_")
    template: str = getattr(topics, short)
    return template.format(site=site, camera=camera, stream=short)


def key_of(record: Record) -> str:
    """Records of one camera stay in order."""
    return f"{record.site}/{record.camera}"


def headers_of(record: Record) -> list[tuple[str, str | bytes | None]]:
    """CloudEvents attributes, as binary content mode has them."""
    return [
        ("ce_specversion", "1.0"),
        ("ce_id", record.event_id),
        ("ce_type", EVENT_TYPES[record.stream]),
        ("ce_source", f"/vigil/{record.site}/{record.origin}"),
        ("ce_subject", record.camera),
        ("ce_time", record.at),
        ("content-type", "application/json"),
        # Only on drills, so that a consumer can leave them out without reading the payload.
        *([("ce_drill", "true")] if record.details.get("drill") else []),
    ]
