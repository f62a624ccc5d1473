from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.sink import Record, utc_text
from broker.messages import Escalation, decode_json, encode_json
from broker.outbox import split_event_id
from config.errors import BadPayloadError
from tests.support.messages import AT, camera_state, escalation, motion
from tests.unit.bridge.records import delivery, event, record

ORIGIN = "node-1.detector"


def test_a_record_carries_the_payload_as_it_came() -> None:
    message = escalation(f"{ORIGIN}:e1:7", drill=True)
    made = Record.of(delivery(message), 1.0)
    assert (made.origin, made.epoch, made.seq) == (ORIGIN, "e1", 7)
    assert (made.stream, made.table, made.site, made.camera) == ("camera_escalation", "escalation", "home", "yard")
    assert (made.details["drill"], made.details["rule"]) == (1, "presence")
    assert made.digest == hashlib.sha256(made.payload).digest()
    assert decode_json(Escalation, made.payload, max_bytes=10_000) == message


@pytest.mark.parametrize(
    ("made", "stream", "kind", "label", "zones"),
    [
        (event(3, type="update"), "camera_motion", "update", "", ""),
        (event(3, zones=("door", "path")), "camera_motion", "start", "", ",door,path,"),
        (event(3, stream="camera_track", zones=("door",)), "camera_track", "start", "person", ",door,"),
        (event(3, stream="camera_clip"), "camera_clip", "request", "", ""),
    ],
)
def test_an_event_is_a_record_too(made: Record, stream: str, kind: str, label: str, zones: str) -> None:
    assert (made.origin, made.epoch, made.seq) == ("node-1.edge", "m1", 3)
    assert (made.table, made.stream) == ("event", stream)
    assert made.details == {"stream": stream, "type": kind, "label": label, "zones": zones}
    assert made.at == "2026-01-01T12:00:00.000000Z"


def test_the_camera_of_an_event_must_be_the_topics() -> None:
    with pytest.raises(BadPayloadError, match="camera 'door' is not the topic's"):
        Record.of(delivery(motion(f"{ORIGIN}:e1:1", camera="door"), camera="yard"), 1.0)


@pytest.mark.parametrize("origin", ["node-1", "node-1.", ".edge", "node-1.Edge", "no/de.edge", "node.1.edge", "+.edge"])
def test_an_event_of_nobody_who_could_get_a_receipt_is_refused(origin: str) -> None:
    with pytest.raises(BadPayloadError, match=r"node\.role|origin:epoch:seq"):
        Record.of(delivery(motion(f"{origin}:e1:1")), 1.0)


def test_the_same_id_with_other_bytes_is_another_record() -> None:
    assert event(1).key == event(1).key
    assert event(1).key != event(1, score=0.5).key
    assert event(1).key != event(1, stream="camera_track").key


@pytest.mark.parametrize(
    "event_id",
    [
        "",
        "7",
        f"{ORIGIN}:e1",
        f"{ORIGIN}:e1:0",
        f"{ORIGIN}:e1:-1",
        f"{ORIGIN}:e1:07",
        f"{ORIGIN}:e1:1.5",
        f"{ORIGIN}:e1:٣",
        f"{ORIGIN}:e1:1:2",
        f"{ORIGIN}::1",
        f"{ORIGIN}:e 1:1",
        f"{ORIGIN}:\x1b[2J:1",
        f"{ORIGIN}:{'e' * 65}:1",
        f"{ORIGIN}:e1:{2**48}",
        f"{ORIGIN}:e1:{2**63}",
        "node-2.detector:e1:1",
        "node-1.detector2:e1:1",
    ],
)
def test_an_identity_that_is_malformed_or_of_another_origin_is_refused(event_id: str) -> None:
    with pytest.raises(BadPayloadError):
        Record.of(delivery(escalation(event_id)), 1.0)


def test_the_camera_must_be_the_topics() -> None:
    with pytest.raises(BadPayloadError, match="camera 'door' is not the topic's"):
        Record.of(delivery(escalation(f"{ORIGIN}:e1:1", camera="door"), camera="yard"), 1.0)


def test_another_message_is_refused() -> None:
    wrong = delivery(camera_state())  # type: ignore[arg-type]
    with pytest.raises(BadPayloadError, match="neither an escalation nor an event"):
        Record.of(wrong, 1.0)


@given(st.text(max_size=80))
def test_any_text_as_an_identity_is_refused_or_taken_apart(event_id: str) -> None:
    try:
        made = Record.of(delivery(escalation(event_id)), 1.0)
    except BadPayloadError:
        return
    assert split_event_id(event_id) == (made.origin, made.epoch, made.seq)


OFFSETS = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(timezones=OFFSETS | st.just(UTC))


@given(MOMENTS, MOMENTS)
def test_times_as_text_sort_as_times(one: datetime, other: datetime) -> None:
    try:
        texts = utc_text(one), utc_text(other)
    except BadPayloadError:
        return
    assert (texts[0] < texts[1]) == (one < other)
    assert datetime.fromisoformat(texts[0]) == one


def test_a_time_outside_of_the_calendar_is_refused() -> None:
    early = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))
    with pytest.raises(BadPayloadError, match="has no UTC"):
        utc_text(early)
    payload = encode_json(escalation(f"{ORIGIN}:e1:1")).replace(b"2026-01-01T12:00:00Z", b"0001-01-01T00:00:00+14:00")
    try:
        message = decode_json(Escalation, payload, max_bytes=10_000)
    except BadPayloadError:
        return
    with pytest.raises(BadPayloadError):
        Record.of(delivery(message), 1.0)


def test_the_time_is_utc_with_six_decimals() -> None:
    assert record(raised_at=AT).at == "2026-01-01T12:00:00.000000Z"
