from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.wire import PUBLISH, Publication, body_of, puback, publication_of


def length(count: int) -> bytes:
    """A Variable Byte Integer, as MQTT 5 section 1.5.5 has it."""
    digits = bytearray()
    while True:
        count, digit = divmod(count, 128)
        digits.append(digit | (0x80 if count else 0))
        if not count:
            return bytes(digits)


def packet_of(message: Publication, properties: bytes | None) -> bytes:
    first = PUBLISH | message.qos << 1 | message.retained
    parts = [len(message.topic).to_bytes(2, "big"), message.topic]
    parts += [message.packet_id.to_bytes(2, "big")] if message.qos else []
    parts += [length(len(properties)), properties] if properties is not None else []
    body = b"".join([*parts, message.payload])
    return bytes([first]) + length(len(body)) + body


@st.composite
def publications(draw: st.DrawFn) -> Publication:
    qos = draw(st.sampled_from((0, 1)))
    return Publication(
        draw(st.binary(min_size=1, max_size=300)),
        draw(st.binary(max_size=300) | st.just(bytes(20_000))),
        qos,
        draw(st.booleans()),
        draw(st.integers(1, 65_535)) if qos else 0,
    )


@given(st.lists(publications(), max_size=4), st.none() | st.binary(max_size=200))
def test_what_was_written_is_read_however_it_is_cut(messages: list[Publication], properties: bytes | None) -> None:
    wire = memoryview(b"".join(packet_of(message, properties) for message in messages))
    found, place = [], 0
    while (body := body_of(wire, place)) is not None:
        found.append(publication_of(wire[place], wire[body], with_properties=properties is not None))
        place = body.stop
    assert found == messages
    assert place == len(wire)


@given(publications())
def test_a_packet_that_is_not_there_whole_is_waited_for(message: Publication) -> None:
    packet = packet_of(message, None)
    for end in {0, 1, 2, 3, len(packet) // 2, len(packet) - 1}:
        assert body_of(memoryview(packet[:end]), 0) is None


@given(st.binary(max_size=40), st.booleans())
def test_a_body_that_is_none_is_refused_or_read_within_its_bounds(body: bytes, with_properties: bool) -> None:  # noqa: FBT001
    try:
        found = publication_of(PUBLISH | 2, memoryview(body), with_properties=with_properties)
    except ValueError:
        return
    assert len(found.topic) + len(found.payload) + 4 + with_properties <= len(body)


@pytest.mark.parametrize(
    ("body", "with_properties"),
    [
        pytest.param(b"", False, id="empty"),
        pytest.param(b"\x00\x00\x00\x01x", False, id="no-topic"),
        pytest.param(b"\x00\x05t", False, id="topic-cut-off"),
        pytest.param(b"\x00\x01t\x00", False, id="identifier-cut-off"),
        pytest.param(b"\x00\x01t\x00\x01", True, id="no-properties"),
        pytest.param(b"\x00\x01t\x00\x01\x05x", True, id="properties-cut-off"),
        pytest.param(b"\x00\x01t\x00\x01\x80", True, id="length-of-properties-cut-off"),
        pytest.param(b"\x00\x01t\x00\x01\xff\xff\xff\xff\x01", True, id="length-without-end"),
    ],
)
def test_a_publication_that_is_shorter_than_it_says(body: bytes, with_properties: bool) -> None:  # noqa: FBT001
    with pytest.raises(ValueError, match=r"a length of more|shorter than it says"):
        publication_of(PUBLISH | 2, memoryview(body), with_properties=with_properties)


def test_a_length_without_end_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="more than four bytes"):
        body_of(memoryview(b"\x30\xff\xff\xff\xff"), 0)


def test_an_acknowledgement() -> None:
    assert puback(0x1234) == b"\x40\x02\x12\x34"
