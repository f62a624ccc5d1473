"""Orders that every process takes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from broker import Bus, Delivery
from broker.memory import MemoryBroker
from broker.messages import Command, NodeStatus, Reject, Reply
from broker.standing import StandingOrders
from broker.topics import NODE_COMMAND, NODE_REPLY, NODE_STATUS, REJECT
from tests.support.messages import AT
from tests.support.waiting import wait_until

HERE = NODE_COMMAND.at("home", node="hub", role="bridge")
BIRTH = NodeStatus(node="hub", role="bridge", state="online", at=AT, started_at=AT)


class Hub:
    """A process, and somebody who gives it orders."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.bus = self._bus("hub", "bridge")
        self.asker = self._bus("desk", "console")
        self.replies: list[Reply] = []
        self.births = 0
        self.rejects = 0
        self.asker.subscribe(NODE_REPLY, self._on_delivery)
        self.asker.subscribe(NODE_STATUS, self._on_delivery)
        self.asker.subscribe(REJECT, self._on_delivery)

    def _bus(self, node: str, role: str) -> Bus:
        return Bus(site="home", origin=f"{node}.{role}", transports=self.broker.transports(node))

    def start(self, *, is_alone: bool) -> StandingOrders:
        orders = StandingOrders(self.bus, tell=lambda: {"status": "{}"}, refresh=self.bus.republish, is_alone=is_alone)
        orders.start()
        for bus in (self.asker, self.bus):
            bus.start()
            assert bus.wait_connected(10)
        self.bus.publish(NODE_STATUS.at("home", node="hub", role="bridge"), BIRTH)
        wait_until(lambda: self.births == 1, what="the birth")
        return orders

    def _on_delivery(self, delivery: Delivery) -> None:
        match delivery.content:
            case Reply() as reply:
                self.replies.append(reply)
            case NodeStatus():
                self.births += 1
            case Reject():
                self.rejects += 1

    def order(self, name: str, correlation_id: str = "c1") -> None:
        self.asker.publish(HERE, Command(correlation_id=correlation_id, name=name))


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.bus.close(0)
    hub.asker.close(0)


def test_it_says_how_it_is_as_often_as_it_is_asked(hub: Hub) -> None:
    hub.start(is_alone=True)
    hub.order("status")
    hub.order("status")
    wait_until(lambda: len(hub.replies) == 2, what="both answers")
    assert hub.replies[0] == Reply(correlation_id="c1", ok=True, result={"status": "{}"})


def test_it_says_everything_again(hub: Hub) -> None:
    hub.start(is_alone=True)
    hub.order("refresh")
    wait_until(lambda: hub.births == 2, what="the birth again")
    wait_until(lambda: hub.replies, what="the answer")
    assert hub.replies[0].ok


def test_an_order_that_nobody_knows_is_refused_with_those_that_are_known(hub: Hub) -> None:
    hub.start(is_alone=True)
    hub.order("dance")
    wait_until(lambda: hub.replies, what="the answer")
    assert hub.replies[0].reason == "there is no order 'dance' here; known are refresh, status"


def test_another_who_takes_orders_in_the_process_answers_his_own(hub: Hub) -> None:
    hub.start(is_alone=False)
    hub.order("reload")
    hub.order("status", "c2")
    wait_until(lambda: hub.replies, what="the answer")
    assert [reply.correlation_id for reply in hub.replies] == ["c2"]


def test_who_wants_no_answer_gets_none(hub: Hub) -> None:
    hub.start(is_alone=True)
    hub.order("status", "")
    hub.order("status", "c2")
    wait_until(lambda: hub.replies, what="the answer")
    assert [reply.correlation_id for reply in hub.replies] == ["c2"]


def test_a_retained_order_is_rejected_since_it_would_come_for_ever(hub: Hub) -> None:
    orders = hub.start(is_alone=True)
    command = Command(correlation_id="c1", name="status")
    orders.on_delivery(Delivery(HERE, command, b"{}", retained=True, received_at=AT, _acknowledge=lambda: None))
    wait_until(lambda: hub.rejects, what="the rejection")
    assert hub.replies == []
