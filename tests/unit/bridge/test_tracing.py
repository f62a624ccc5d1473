"""What the bridge adds to a trace: whose child it is, and when it is silent."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import msgspec
import pytest

from bridge.sink import Record, StoredAt
from bridge.tracing import captured_at_of, trace_forwarded
from broker.spans import Span, Tracer
from broker.tracing import Step, span_id_of, trace_id_of
from config import ManualClock
from config.settings import TracingSettings
from tests.unit.bridge.records import record

CLOCK = ManualClock()


class Box:
    def __init__(self) -> None:
        self.spans: list[Span] = []

    def export(self, spans: Sequence[Span]) -> None:
        self.spans += spans

    def close(self) -> None:
        """Nothing is on its way."""


def forwarded(given: Record, *, share: float = 1.0, repeated: bool = False) -> list[Span]:
    """What a tracer sends of one record that came a quarter of a second ago."""
    box = Box()
    tracer = Tracer("home", TracingSettings(share=share), open_exporter=lambda: box)
    came = msgspec.structs.replace(given, received_s=CLOCK.monotonic_s() - 0.25)
    trace_forwarded(tracer, [(came, StoredAt("kafka", "topic/0/7", CLOCK.now(), repeated))], CLOCK)
    tracer._stop.set()
    tracer._export_once()
    return box.spans


@pytest.mark.parametrize(
    ("stream", "parent", "of"),
    [
        ("camera_escalation", "escalate", "event_id"),
        ("camera_track", "score", "origin"),
        ("camera_motion", "capture", ""),
    ],
)
def test_it_is_the_child_of_what_raised_the_event(stream: str, parent: Step, of: str) -> None:
    given = msgspec.structs.replace(record(1), stream=stream)
    (span,) = forwarded(given)
    trace_id = trace_id_of(given.site, given.camera, captured_at_of(given))
    assert span.trace_id == trace_id
    assert span.parent_id == span_id_of(trace_id, parent, getattr(given, of) if of else "")
    assert span.span_id == span_id_of(trace_id, "forward", given.event_id)
    assert span.ended_at - span.started_at == timedelta(seconds=0.25)
    assert span.attributes["vigil.event_id"] == given.event_id
    assert span.attributes["vigil.location"] == "topic/0/7"


def test_a_clip_is_of_no_picture_and_begins_a_trace() -> None:
    (span,) = forwarded(msgspec.structs.replace(record(1), stream="camera_clip"))
    assert span.parent_id == 0


def test_a_repeat_was_traced_before() -> None:
    assert forwarded(record(1), repeated=True) == []


def test_of_the_undrawn_only_escalations_go() -> None:
    assert len(forwarded(record(1), share=0.0)) == 1
    assert forwarded(msgspec.structs.replace(record(1), stream="camera_motion"), share=0.0) == []
