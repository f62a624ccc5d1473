"""Spans: the drawn ones go, those of an escalation go whole, and a collector that is away is in nobody's way."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
import structlog
from pydantic import ValidationError
from structlog.testing import capture_logs

from broker.spans import Span, Tracer
from broker.tracing import is_sampled, span_id_of, trace_id_of, traceparent_of
from config import TransientError
from config.settings import Settings, TracingSettings
from tests.support.collector import Collector, collector
from tests.support.waiting import wait_until

AT = datetime(2026, 1, 1, 12, 0, 0, 123_456, tzinfo=UTC)
EVENT = "node-1.detector:abcdefgh:7"


class Box:
    """An exporter that keeps what it gets, or takes nothing."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.away = False
        self.closed = False

    def export(self, spans: Sequence[Span]) -> None:
        if self.away:
            raise TransientError("nobody there")
        self.spans += spans

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def box() -> Box:
    return Box()


@pytest.fixture
def received() -> Iterator[Collector]:
    with collector() as one:
        yield one


def shoot(tracer: Tracer, count: int) -> list[datetime]:
    """Note the captures of so many pictures; returns when they were taken."""
    moments = [AT + timedelta(milliseconds=125 * n) for n in range(count)]
    for moment in moments:
        tracer.note("capture", "yard", moment, started_at=moment, ended_at=moment)
    return moments


def test_the_steps_of_an_escalation_make_one_tree(received: Collector) -> None:
    settings = Settings(site="home", node="porch", tracing=TracingSettings(endpoint=received.url))
    late = AT + timedelta(seconds=1)
    tracer = Tracer.of(settings, "detector.2")
    tracer.start()
    tracer.note("capture", "yard", AT, started_at=AT, ended_at=late)
    tracer.note("score", "yard", AT, started_at=AT, ended_at=late, of="porch.detector.2", parent=("capture", ""))
    tracer.note("escalate", "yard", AT, started_at=late, of=EVENT, parent=("score", "porch.detector.2"))
    tracer.note(
        "forward",
        "yard",
        AT,
        started_at=late,
        ended_at=AT,
        of=EVENT,
        parent=("escalate", EVENT),
        attributes={"vigil.event_id": EVENT, "vigil.seq": 7},
    )
    tracer.close()
    capture, score, escalate, forward = received.spans
    assert received.paths == {"/v1/traces"}
    assert [span.name for span in received.spans] == ["capture", "score", "escalate", "forward"]
    assert capture.parent_id == ""
    assert (score.parent_id, escalate.parent_id, forward.parent_id) == (
        capture.span_id,
        score.span_id,
        escalate.span_id,
    )
    assert traceparent_of("home", "yard", AT, "forward", EVENT) == f"00-{forward.trace_id}-{forward.span_id}-01"
    assert {span.trace_id for span in received.spans} == {forward.trace_id}
    assert capture.end_ns - capture.start_ns == 1_000_000_000
    assert capture.start_ns == int(AT.timestamp()) * 10**9 + 123_456_000
    assert forward.end_ns == forward.start_ns  # a clock that was set back makes no negative time
    assert forward.attributes == {"vigil.camera": "yard", "vigil.event_id": EVENT, "vigil.seq": 7}
    resource = {**capture.resource}
    assert (resource["service.name"], resource["service.instance.id"]) == ("vigil-detector", "porch.detector.2")
    assert (resource["vigil.site"], resource["vigil.node"]) == ("home", "porch")


def test_without_an_endpoint_nothing_is_noted_and_no_thread_starts() -> None:
    tracer = Tracer.of(Settings(site="home", node="porch"), "edge")
    tracer.start()
    tracer.note("capture", "yard", AT, started_at=AT)
    tracer.keep("yard", AT)
    assert not tracer.on
    assert tracer.figures().queues == {}
    assert not tracer._thread._thread.is_alive()
    tracer.close()


def test_only_the_drawn_traces_go(box: Box) -> None:
    tracer = Tracer("home", TracingSettings(share=0.25), open_exporter=lambda: box)
    tracer.start()
    moments = shoot(tracer, 200)
    tracer.close()
    drawn = {trace_id for at in moments if is_sampled(trace_id := trace_id_of("home", "yard", at), 0.25)}
    assert {span.trace_id for span in box.spans} == drawn
    assert 0 < len(drawn) < 200
    assert box.closed


def test_an_escalation_brings_what_was_done_to_its_picture_before_and_after(box: Box) -> None:
    tracer = Tracer("home", TracingSettings(share=0.0), open_exporter=lambda: box)
    tracer.start()
    moments = shoot(tracer, 50)
    tracer.keep("yard", moments[40])
    tracer.keep("yard", moments[40])
    for at in moments:
        tracer.note("score", "yard", at, started_at=at, of="porch.detector", parent=("capture", ""))
    tracer.note("escalate", "yard", moments[3], started_at=AT, of=EVENT, parent=("score", "porch.detector"), keep=True)
    tracer.close()
    first, second = trace_id_of("home", "yard", moments[3]), trace_id_of("home", "yard", moments[40])
    assert [(span.step, span.trace_id) for span in box.spans] == [
        ("capture", second),
        ("score", second),
        ("capture", first),
        ("score", first),
        ("escalate", first),
    ]
    assert box.spans[-1].span_id == span_id_of(first, "escalate", EVENT)


def test_no_stranger_fills_the_memory_with_what_is_not_drawn(box: Box) -> None:
    tracer = Tracer("home", TracingSettings(share=0.0), open_exporter=lambda: box)
    shoot(tracer, 3_000)
    for number in range(100):
        tracer.note("forward", "gate", AT, started_at=AT, of=f"x.y:abcdefgh:{number + 1}")
    assert len(tracer._aside) == 2_048
    assert len(tracer._aside[trace_id_of("home", "gate", AT)]) == 16


def test_a_collector_that_is_away_costs_the_oldest_spans_and_one_line(box: Box) -> None:
    box.away = True
    structlog.reset_defaults()
    with capture_logs() as logs:
        tracer = Tracer("home", open_exporter=lambda: box)
        moments = shoot(tracer, 5_000)
        for _ in range(3):
            tracer._stop.set()
            tracer._export_once()
    assert [line["event"] for line in logs] == ["tracing.unreachable"]
    assert tracer.figures().queues == {"spans": 4_096}
    assert tracer.figures().drops == {"spans": 904}
    box.away = False
    tracer._export_once()
    assert len(box.spans) == 2_048  # no more in one go: sending takes time that somebody else needs
    tracer._export_once()
    assert [span.started_at for span in box.spans] == moments[904:]
    assert tracer.figures().counts == {"spans_exported": 4_096}


def test_a_collector_that_refuses_is_asked_again(received: Collector) -> None:
    received.status = 400
    tracer = Tracer.of(
        Settings(site="home", node="porch", tracing=TracingSettings(endpoint=f"{received.url}/")), "edge"
    )
    tracer.start()
    shoot(tracer, 3)
    wait_until(lambda: received.refused)
    received.status = 200
    wait_until(lambda: len(received.spans) == 3)
    tracer.close()


@pytest.mark.parametrize(
    "value", ["127.0.0.1:4318", "http://a:b@host:4318", "http://host:4318/v1/traces", "grpc://host"]
)
def test_an_address_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(ValidationError, match="write http://HOST:PORT"):
        TracingSettings(endpoint=value)
    assert TracingSettings(endpoint="https://host/otlp/").endpoint == "https://host/otlp"


def test_a_library_that_is_missing_is_named_once_and_the_process_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "broker.otlp", None)
    monkeypatch.delitem(sys.modules, "broker.otlp")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    structlog.reset_defaults()
    with capture_logs() as logs:
        tracer = Tracer.of(
            Settings(site="home", node="porch", tracing=TracingSettings(endpoint="http://127.0.0.1:1")), "edge"
        )
        shoot(tracer, 1)
        tracer._stop.set()
        tracer._export_once()
        tracer._export_once()
    (line,) = logs
    assert "pip install 'vigil-mesh[telemetry]'" in line["error"]
