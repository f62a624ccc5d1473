"""Blocks of ids: what the ledger topic of the mode exactly-once is made of."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.kafka.ledger_topic import block_in, ledger_key
from bridge.kafka.written import SEQUENCES, Written, block_of, read_block
from bridge.marks import Mark
from bridge.sink import Record
from config.errors import BadPayloadError
from tests.unit.bridge.records import event, record


class Topic:
    """A compacted topic: the last value of each key, in the order in which those were written."""

    def __init__(self) -> None:
        self.values: dict[str, bytes | None] = {}

    def write(self, written: Written, *records: Record) -> None:
        changes = written.note(records)
        for name, value in changes.items():
            self.values.pop(name, None)
            self.values[name] = value
        written.accept(changes)

    def reader(self) -> Written:
        written = Written()
        for name, value in self.values.items():
            written.load(name, value)
        return written


def test_a_block_can_be_read_with_plain_tools() -> None:
    topic, sent = Topic(), record(65)
    topic.write(Written(), sent)
    ((name, value),) = topic.values.items()
    assert name == "camera_escalation:node-1.detector:e1:1"
    assert json.loads(value or b"") == {"ids": {"65": sent.digest.hex()[:12]}, "v": 1}


@given(st.lists(st.integers(1, 400), min_size=1, max_size=60), st.integers(1, 7))
def test_a_successor_knows_what_was_written_and_nothing_else(sequences: list[int], at_once: int) -> None:
    topic, written = Topic(), Written()
    for start in range(0, len(sequences), at_once):
        topic.write(written, *(record(seq) for seq in sequences[start : start + at_once]))
    for known in (written, topic.reader()):
        for seq in range(1, 402):
            assert known.has(record(seq)) == (seq in sequences)
        ((key, mark),) = known.marks().items()
        assert key == ("camera_escalation", "node-1.detector", "e1")
        assert mark == Mark(min(sequences), max(sequences), len(set(sequences)))


def test_what_is_not_committed_is_not_written() -> None:
    written = Written()
    written.note([record(1)])
    assert not written.has(record(1))


def test_the_same_id_with_another_payload_is_another_message() -> None:
    topic, written = Topic(), Written()
    first, second = record(1, summary="first"), record(1, summary="second")
    topic.write(written, first)
    assert not written.has(second)
    topic.write(written, second)
    for known in (written, topic.reader()):
        assert known.has(first)
        assert known.has(second)


def test_streams_origins_and_epochs_are_apart() -> None:
    topic, written = Topic(), Written()
    topic.write(written, event(7))
    for other in (event(7, stream="camera_track"), event(7, origin="node-2.edge"), event(7, epoch="m2"), event(8)):
        assert not written.has(other)
    assert written.has(event(7))


def test_one_who_uses_an_id_again_and_again_fills_nothing() -> None:
    topic, written = Topic(), Written()
    for number in range(100):
        topic.write(written, event(1, score=number / 100))
    ((_, value),) = topic.values.items()
    assert len(value or b"") < 100
    assert written.has(event(1, score=0.99))


def test_the_oldest_blocks_make_room_and_are_taken_out_of_the_topic() -> None:
    topic, written = Topic(), Written(blocks_max=3)
    for block in range(6):
        topic.write(written, event(block * SEQUENCES + 1), record(1))
    left = sorted(name for name, value in topic.values.items() if value is not None)
    assert left == ["camera_escalation:node-1.detector:e1:0", *(f"camera_motion:node-1.edge:m1:{n}" for n in (3, 4, 5))]
    assert written.has(record(1)), "events make no room among the escalations"
    assert topic.reader().marks() == written.marks()


def test_more_at_once_than_there_is_room_for_is_all_remembered_for_now() -> None:
    topic, written = Topic(), Written(blocks_max=2)
    many = [event(block * SEQUENCES + 1) for block in range(5)]
    topic.write(written, *many)
    assert all(written.has(one) for one in many)
    topic.write(written, event(5 * SEQUENCES + 1))
    assert len(written) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("camera_motion:a.edge:e1:0", b"{"),
        ("camera_motion:a.edge:e1:0", b'{"v":1,"ids":{"one":"x"}}'),
        ("camera_motion:a.edge:0", b'{"v":1,"ids":{}}'),
        ("camera_motion:a.edge:e1:0", b'{"v":1,"ids":{}}'),
        ("camera_motion:a.edge:e1:0", b'{"v":1,"ids":{"65":"x"}}'),
        ("rubbish", b"rubbish"),
    ],
)
def test_what_is_no_block_is_left_out(name: str, value: bytes) -> None:
    with pytest.raises(BadPayloadError, match="is not a block"):
        read_block(name, value)
    written = Written()
    written.load(name, value)
    assert len(written) == 0


def test_keys_of_the_ledger_topic() -> None:
    block = block_of(record(1))
    assert block_in(ledger_key("home", 3, block).encode()) == ("home", 3, block)
    for foreign in (b"", None, b"home", b"home/x/y", b"home/3/", b"\xff"):
        assert block_in(foreign) is None
