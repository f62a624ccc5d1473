from __future__ import annotations

from broker.lanes import FrameLane
from broker.transport import Outbound
from config.clock import ManualClock
from config.errors import BadPayloadError, TransientError

AGE_MAX_S = 2.0


class Wire:
    """Records what is handed over; refuses while it is down."""

    def __init__(self) -> None:
        self.sent: list[Outbound] = []
        self.error: Exception | None = None
        self.clock = ManualClock()

    def __call__(self, message: Outbound) -> int:
        if self.error is not None:
            raise self.error
        self.sent.append(message)
        return len(self.sent)

    def lane(self, bytes_max: int) -> FrameLane:
        return FrameLane(self, bytes_max=bytes_max, age_max_s=AGE_MAX_S, clock=self.clock)


def frame(camera: str, size: int = 100) -> Outbound:
    return Outbound(camera, bytes(size), 0, retain=False)


def test_frames_wait_for_room_and_newer_ones_take_their_place() -> None:
    wire = Wire()
    lane = wire.lane(250)
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
    lane = wire.lane(50)
    lane.offer(frame("a", 500))
    lane.offer(frame("a", 500))
    assert len(wire.sent) == 1
    lane.on_sent(1)
    assert len(wire.sent) == 2


def test_without_a_connection_frames_are_dropped_and_counted() -> None:
    wire = Wire()
    lane = wire.lane(150)
    for _ in range(3):
        lane.offer(frame("a"))
    lane.clear()
    wire.error = TransientError("down")
    lane.offer(frame("a"))
    wire.error = BadPayloadError("too large")
    lane.offer(frame("a"))
    assert lane.dropped == 5
    assert lane.bytes_in_flight == 0


def test_a_frame_that_waited_too_long_is_dropped_and_counted() -> None:
    wire = Wire()
    lane = wire.lane(100)
    lane.offer(frame("a"))
    lane.offer(frame("b"))
    wire.clock.advance(1.0)
    lane.offer(frame("c"))
    wire.clock.advance(1.5)
    lane.on_sent(1)
    assert [message.topic for message in wire.sent] == ["a", "c"]
    assert (lane.expired, lane.dropped) == (1, 0)


def test_a_network_that_takes_nothing_gets_no_more() -> None:
    """What is on the wire cannot be taken back: with 4 MB of it a slow network would show every frame seconds late."""
    wire = Wire()
    lane = wire.lane(1_000_000)
    lane.offer(frame("a"))
    wire.clock.advance(AGE_MAX_S / 4 + 0.01)
    for _ in range(5):
        lane.offer(frame("a"))
    assert len(wire.sent) == 1
    lane.on_sent(1)
    assert len(wire.sent) == 2
    assert lane.dropped == 4
