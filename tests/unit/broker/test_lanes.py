from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.lanes import FrameLane, OutboxDrain
from broker.outbox import Outbox
from broker.transport import Outbound
from config.errors import TransientError


class Wire:
    """Records what is handed over; refuses while it is down."""

    def __init__(self) -> None:
        self.sent: list[Outbound] = []
        self.down = False

    def __call__(self, message: Outbound) -> int:
        if self.down:
            raise TransientError("down")
        self.sent.append(message)
        return len(self.sent)


def frame(camera: str, size: int = 100) -> Outbound:
    return Outbound(camera, bytes(size), 0, retain=False)


def test_frames_wait_for_room_and_newer_ones_take_their_place() -> None:
    wire = Wire()
    lane = FrameLane(wire, bytes_max=250)
    newest = frame("a", 101)
    for message in (frame("a"), frame("b"), frame("a"), frame("c"), newest):
        lane.offer(message)
    assert [message.topic for message in wire.sent] == ["a", "b"]
    assert (lane.bytes_in_flight, lane.dropped) == (200, 1)
    assert lane.on_sent(1)
    assert wire.sent[2].topic == "c"
    assert lane.on_sent(2)
    assert wire.sent[3] is newest
    assert not lane.on_sent(99)


def test_one_frame_larger_than_the_bound_still_goes_alone() -> None:
    wire = Wire()
    lane = FrameLane(wire, bytes_max=50)
    lane.offer(frame("a", 500))
    lane.offer(frame("a", 500))
    assert len(wire.sent) == 1
    lane.on_sent(1)
    assert len(wire.sent) == 2


def test_without_a_connection_frames_are_dropped_and_counted() -> None:
    wire = Wire()
    lane = FrameLane(wire, bytes_max=150)
    for _ in range(3):
        lane.offer(frame("a"))
    lane.clear()
    wire.down = True
    lane.offer(frame("a"))
    assert lane.dropped == 4
    assert lane.bytes_in_flight == 0


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    box = Outbox(tmp_path / "o.db", origin="n.edge")
    yield box
    box.close()


def put(outbox: Outbox, *, needs_receipt: bool, priority: int = 1) -> str:
    return outbox.put("s", "t", str.encode, priority=priority, needs_receipt=needs_receipt)


def test_an_event_leaves_with_the_puback_an_escalation_with_the_receipt(outbox: Outbox) -> None:
    wire = Wire()
    drain = OutboxDrain(outbox, wire, window=8, resend_after_s=10)
    put(outbox, needs_receipt=False)
    escalation = put(outbox, needs_receipt=True)
    drain.pump(0.0)
    assert drain.on_sent(1)
    assert drain.on_sent(2)
    assert not drain.on_sent(2)
    assert outbox.rows == 1
    assert drain.awaiting_receipt == 1
    assert drain.on_receipt(escalation)
    assert not drain.on_receipt(escalation)
    assert outbox.rows == 0


def test_an_escalation_is_sent_again_with_growing_patience_and_at_once_when_the_bridge_is_back(
    outbox: Outbox,
) -> None:
    wire = Wire()
    drain = OutboxDrain(outbox, wire, window=8, resend_after_s=10)
    first, second = put(outbox, needs_receipt=True), put(outbox, needs_receipt=True)
    drain.pump(0.0)
    sent_at = []
    for second_ in range(100):
        for number in range(1, len(wire.sent) + 1):
            drain.on_sent(number)
        before = len(wire.sent)
        drain.pump(float(second_))
        if len(wire.sent) > before:
            sent_at.append(second_)
    assert sent_at == [10, 30, 70]
    assert {message.payload.decode() for message in wire.sent} == {first, second}
    for number in range(1, len(wire.sent) + 1):
        drain.on_sent(number)
    drain.on_receipt(first)
    before = len(wire.sent)
    drain.pump(99.0)
    assert [message.payload.decode() for message in wire.sent[before:]] == [second]
    assert drain.resent == 7


def test_the_window_is_kept_and_after_a_lost_connection_all_goes_again_in_order(outbox: Outbox) -> None:
    wire = Wire()
    drain = OutboxDrain(outbox, wire, window=2, resend_after_s=10)
    identities = [put(outbox, needs_receipt=True) for _ in range(5)]
    drain.pump(0.0)
    assert len(wire.sent) == 2
    drain.on_sent(1)
    drain.pump(0.1)
    assert len(wire.sent) == 3
    drain.clear()
    wire.sent.clear()
    for turn in range(5):
        drain.pump(1.0)
        drain.on_sent(turn + 1)
    assert [message.payload.decode() for message in wire.sent] == identities


def test_a_pump_that_meets_a_dead_connection_says_so_and_loses_nothing(outbox: Outbox) -> None:
    wire = Wire()
    wire.down = True
    drain = OutboxDrain(outbox, wire, window=2, resend_after_s=10)
    identity = put(outbox, needs_receipt=True)
    with pytest.raises(TransientError):
        drain.pump(0.0)
    drain.clear()
    wire.down = False
    drain.pump(1.0)
    assert [message.payload.decode() for message in wire.sent] == [identity]
