"""Ids of traces: the same in every process, different for everything else."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from broker.tracing import is_sampled, span_id_of, trace_id_of, traceparent_of

AT = datetime(2026, 1, 1, 12, 0, 0, 123_456, tzinfo=UTC)
EVENT = "node-1.detector:abcdefgh:7"


def test_every_process_computes_the_same_ids() -> None:
    assert traceparent_of("home", "yard", AT) == "00-05730ad0c023a3feaeb7d570cc3c3dab-604d1897462d8b7a-01"
    assert traceparent_of("home", "yard", AT.astimezone(timezone(timedelta(hours=5)))) == traceparent_of(
        "home", "yard", AT
    )
    assert traceparent_of("home", "yard", datetime.fromisoformat("2026-01-01T12:00:00.123456Z")) == traceparent_of(
        "home", "yard", AT
    )


@given(st.datetimes(timezones=st.just(UTC)), st.text(max_size=20), st.text(max_size=20))
def test_a_traceparent_is_one_of_w3c(moment: datetime, site: str, camera: str) -> None:
    match = re.fullmatch(r"00-([0-9a-f]{32})-([0-9a-f]{16})-01", traceparent_of(site, camera, moment, "forward", EVENT))
    assert match
    assert int(match[1], 16) == trace_id_of(site, camera, moment) > 0
    assert int(match[2], 16) > 0


def test_pictures_and_steps_have_ids_of_their_own() -> None:
    traces = {
        trace_id_of(site, camera, AT + timedelta(microseconds=us))
        for site in ("home", "away")
        for camera in ("yard", "gate")
        for us in range(50)
    }
    assert len(traces) == 200
    trace_id = trace_id_of("home", "yard", AT)
    steps = {
        span_id_of(trace_id, "capture"),
        *(span_id_of(trace_id, "score", f"node-{n}.detector") for n in range(50)),
        *(span_id_of(trace_id, "escalate", f"node-1.detector:abcdefgh:{n}") for n in range(50)),
        *(span_id_of(trace_id, "forward", f"node-1.detector:abcdefgh:{n}") for n in range(50)),
    }
    assert len(steps) == 151


def test_a_share_of_the_traces_is_drawn_and_always_the_same() -> None:
    traces = [trace_id_of("home", "yard", AT + timedelta(milliseconds=125 * n)) for n in range(2_000)]
    tenth = {trace_id for trace_id in traces if is_sampled(trace_id, 0.1)}
    assert 150 < len(tenth) < 250
    assert tenth <= {trace_id for trace_id in traces if is_sampled(trace_id, 0.5)}
    assert all(is_sampled(trace_id, 1.0) for trace_id in traces)
    assert not any(is_sampled(trace_id, 0.0) for trace_id in traces)
