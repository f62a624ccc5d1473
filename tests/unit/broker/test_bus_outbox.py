"""What the bus makes of its outbox, on the broker in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker import topics
from broker.bus import Bus, Delivery, NewEvent
from broker.memory import MemoryBroker
from broker.messages import Escalation, MotionEvent
from broker.outbox import Outbox, split_event_id
from config.errors import BadPayloadError
from config.settings import BusSettings, OutboxSettings
from tests.support.messages import escalation, motion, receipt
from tests.support.waiting import wait_until

ORIGIN = "node-1.edge"
MOTION = topics.CAMERA_MOTION.at("home", camera="yard")
ALARM = topics.CAMERA_ESCALATION.at("home", camera="yard", origin=ORIGIN)
Join = Callable[..., Bus]


@pytest.fixture
def join(tmp_path: Path) -> Iterator[Join]:
    """Makes started buses on one broker, and closes them."""
    broker = MemoryBroker()
    numbers = itertools.count()
    buses: list[Bus] = []

    def make(role: str = "edge", subscribe: Callable[[Bus], None] = lambda _bus: None) -> Bus:
        origin = f"node-1.{role}"
        bus = Bus(
            site="home",
            origin=origin,
            transports=broker.transports(f"{role}-{next(numbers)}"),
            outbox=Outbox(tmp_path / f"{role}.db", origin=origin) if role == "edge" else None,
            settings=BusSettings(outbox=OutboxSettings(resend_after_s=0.5)),
        )
        subscribe(bus)
        bus.start()
        buses.append(bus)
        assert bus.wait_connected(30)
        return bus

    yield make
    for bus in buses:
        bus.close(drain_s=0)


def test_many_are_stored_at_once_and_arrive_in_order(join: Join) -> None:
    seen: list[str] = []

    def answer(bus: Bus) -> None:
        def on_delivery(delivery: Delivery) -> None:
            assert isinstance(delivery.content, Escalation | MotionEvent)
            seen.append(delivery.content.id)
            bus.publish(topics.RECEIPT.at("home", origin=ORIGIN), receipt(delivery.content.id, delivery.payload))

        bus.subscribe(topics.CAMERA_ESCALATION, on_delivery)
        bus.subscribe(topics.CAMERA_MOTION, on_delivery)

    join("bridge", answer)
    edge = join()
    ids = edge.publish_events([NewEvent(ALARM, escalation), NewEvent(MOTION, motion)] * 100)
    assert [split_event_id(identity)[2] for identity in ids[::2]] == list(range(1, 101))
    wait_until(lambda: edge.statistics().outbox_rows == 0, what="an empty outbox")
    assert [one for one in seen if one in ids[::2]] == ids[::2]
    assert [one for one in seen if one in ids[1::2]] == ids[1::2]
    assert edge.statistics().published == {"durable": 100, "event": 100}
    assert (edge.statistics().resent, edge.statistics().refused, edge.statistics().released) == (0, 0, 0)


def test_one_that_is_too_large_takes_none_of_the_others_along(join: Join) -> None:
    edge = join()

    def build(event_id: str) -> MotionEvent:
        return motion(event_id, motion_id="x" * 100_000)

    with pytest.raises(BadPayloadError, match="100"):
        edge.publish_events([NewEvent(MOTION, motion), NewEvent(MOTION, build)])
    assert edge.statistics().outbox_rows == 0


def test_what_a_predecessor_left_open_is_found_by_topic_and_can_be_ended(join: Join) -> None:
    gate = topics.CAMERA_MOTION.at("home", camera="gate")
    first = join()
    left = first.publish_event(MOTION, motion, opens=True)
    first.publish_event(gate, lambda one: motion(one, "gate"), opens=True)
    ended = first.publish_event(MOTION, motion, opens=True)
    first.publish_event(MOTION, motion, closes=ended)
    first.close(drain_s=0)
    second = join()
    assert second.open_events(topics.CAMERA_MOTION, camera="yard") == [(left, motion(left))]
    assert len(second.open_events(topics.CAMERA_MOTION)) == 2
    assert second.open_events(topics.CAMERA_TRACK) == []
    second.publish_event(MOTION, motion, closes=left)
    assert second.open_events(topics.CAMERA_MOTION, camera="yard") == []


def test_a_bus_without_an_outbox_has_nothing_open(join: Join) -> None:
    assert join("console").open_events(topics.CAMERA_MOTION) == []
