"""What the bridge adds to the trace of a picture: from the arrival of an event to the sink's word."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from bridge.sink import Record, StoredAt
from broker.spans import Tracer
from broker.topics import CAMERA_ESCALATION, CAMERA_MOTION, CAMERA_TRACK
from broker.tracing import Step
from config import Clock

__all__ = ["captured_at_of", "trace_forwarded"]


def captured_at_of(record: Record) -> datetime:
    """When the picture was taken that it is about; a clip has none, and a trace of its own."""
    return datetime.fromisoformat(str(record.details.get("captured_at", record.at)))


def trace_forwarded(tracer: Tracer, stored: Sequence[tuple[Record, StoredAt]], clock: Clock) -> None:
    """Note what a sink has just reported; what it had already was traced then.

    Args:
        tracer: of this process.
        stored: as the sink reports it.
        clock: time.
    """
    now, now_s = clock.now(), clock.monotonic_s()
    for record, place in stored:
        if place.repeated:
            continue
        tracer.note(
            "forward",
            record.camera,
            captured_at_of(record),
            started_at=now - timedelta(seconds=now_s - record.received_s),
            ended_at=place.at,
            of=record.event_id,
            parent=_parent(record),
            keep=record.stream == CAMERA_ESCALATION.name,
            attributes={
                "vigil.event_id": record.event_id,
                "vigil.stream": record.stream,
                "vigil.sink": place.sink,
                "vigil.location": place.location,
            },
        )


def _parent(record: Record) -> tuple[Step, str] | None:
    """An escalation was raised in a step of its own; a track comes with the scores, a movement with the picture."""
    parents: dict[str, tuple[Step, str]] = {
        CAMERA_ESCALATION.name: ("escalate", record.event_id),
        CAMERA_TRACK.name: ("score", record.origin),
        CAMERA_MOTION.name: ("capture", ""),
    }
    return parents.get(record.stream)
