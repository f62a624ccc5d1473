from __future__ import annotations

import base64
import contextlib
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import (
    CommandValue,
    Escalation,
    Evidence,
    Message,
    Reject,
    decode_json,
    encode_json,
)
from broker.topics import CONTRACT
from broker.values import decode_command_value
from config.errors import BadPayloadError
from tests.support.messages import AT, escalation, motion

LIMIT = 64 * 1024


def test_a_message_is_read_as_it_was_written() -> None:
    for message in (escalation("n.detector:ab:1"), motion("n.edge:cd:2", boxes=((0.1, 0.2, 0.3, 0.4),))):
        assert decode_json(type(message), encode_json(message), max_bytes=LIMIT) == message


def test_times_are_rfc_3339_in_utc_and_need_an_offset() -> None:
    assert b'"at":"2026-01-01T12:00:00Z"' in encode_json(motion("a:b:1"))
    payload = encode_json(motion("a:b:1")).replace(b"12:00:00Z", b"14:00:00+02:00")
    assert decode_json(type(motion("a:b:1")), payload, max_bytes=LIMIT).at == datetime(
        2026, 1, 1, 14, tzinfo=timezone(timedelta(hours=2))
    )
    with pytest.raises(BadPayloadError, match=r"timezone.*at"):
        decode_json(type(motion("a:b:1")), payload.replace(b"+02:00", b""), max_bytes=LIMIT)


def test_unknown_fields_are_ignored_and_unknown_versions_are_not() -> None:
    plain = msgspec.json.decode(encode_json(escalation("a:b:1")))
    newer = msgspec.json.encode(plain | {"colour": "red"})
    assert decode_json(Escalation, newer, max_bytes=LIMIT).id == "a:b:1"
    with pytest.raises(BadPayloadError, match="unknown schema version"):
        decode_json(Escalation, msgspec.json.encode(plain | {"v": 2}), max_bytes=LIMIT)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "Expected `object`"),
        (b'{"v":1', "not JSON"),
        (b'{"v":1,"x":' + b"[" * 100_000, "nested too deeply"),
        (b'{"v":1,"topic":7}', r"topic"),
        (b'{"v":1e400}', "out of range"),
        (b" " * (LIMIT + 1), "more than the 65536"),
        (b'{"v":1,"topic":NaN}', "not JSON"),
        (b'{"v":1,"topic":"\\ud800"}', "not JSON"),
        (b'{"v":1,"topic":"\xed\xa0\x80"}', "not JSON"),
        (b'{"v":1,"v":2}', "unknown schema version"),
    ],
)
def test_a_bad_payload_says_what_is_wrong(payload: bytes, reason: str) -> None:
    with pytest.raises(BadPayloadError, match=reason):
        decode_json(Reject, payload, max_bytes=max(LIMIT, 200_000) if len(payload) != LIMIT + 1 else LIMIT)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**400])
def test_an_integer_that_no_database_holds_is_refused(number: int) -> None:
    with pytest.raises(BadPayloadError, match=r"Expected `int`.*\$\.value"):
        decode_json(CommandValue, b'{"value":%d}' % number, max_bytes=LIMIT)


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "1969-12-31T23:59:59Z"])
def test_a_time_that_some_time_zones_do_not_have_is_refused(at: str) -> None:
    payload = encode_json(motion("a:b:1")).replace(b"2026-01-01T12:00:00Z", at.encode(), 1)
    with pytest.raises(BadPayloadError, match=r"started_at .* is not of this age"):
        decode_json(type(motion("a:b:1")), payload, max_bytes=LIMIT)


def test_a_reason_repeats_no_more_than_a_line_of_what_is_wrong() -> None:
    payload = encode_json(motion("a:b:1")).replace(b'"type":"start"', b'"type":"%s"' % (b"x" * 60_000))
    with pytest.raises(BadPayloadError, match="Invalid enum value") as raised:
        decode_json(type(motion("a:b:1")), payload, max_bytes=LIMIT)
    assert len(raised.value.reason) < 400


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
KINDS: list[type[Message]] = list(dict.fromkeys(spec.payload for spec in CONTRACT if spec.payload is not None))


@given(payload=st.binary(max_size=300) | JSON.map(msgspec.json.encode))
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_hostile_payloads_raise_nothing_else(kind: type[Message], payload: bytes) -> None:
    with contextlib.suppress(BadPayloadError):
        assert isinstance(decode_json(kind, payload, max_bytes=LIMIT), kind)


def test_evidence_is_base64_that_any_tool_reads() -> None:
    picture = Evidence(content_type="image/jpeg", sha256="0" * 64, width=1, height=1, data=b"\xff\xd8\xff")
    payload = msgspec.json.decode(encode_json(escalation("a:b:1", evidence=(picture,))))
    assert base64.b64decode(payload["evidence"][0]["data"]) == b"\xff\xd8\xff"


def test_the_moment_of_tests_is_aware() -> None:
    assert AT.tzinfo is UTC


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b'{"v":2,"value":"eco"}', "unknown schema version"),
        (b'{"value":', "not JSON"),
        (b"\xff", "neither JSON nor text"),
        (b"x" * 257, "257 bytes is more than the 256 of bare text"),
    ],
)
def test_a_wanted_value_that_is_none(payload: bytes, says: str) -> None:
    with pytest.raises(BadPayloadError, match=says):
        decode_command_value(payload, max_bytes=LIMIT)
