"""Orders to a process of the fleet: carried out once, answered each time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from broker import Bus, Delivery
from broker.memory import MemoryBroker
from broker.messages import Command, Reply
from broker.topics import NODE_COMMAND, NODE_REPLY
from config import TransientError
from fleet.desk import Desk
from tests.support.waiting import wait_until

HERE = NODE_COMMAND.at("home", node="hub", role="fleet")


class Office:
    """A desk that counts what is done, and somebody who asks there."""

    def __init__(self) -> None:
        broker = MemoryBroker()
        self.bus = Bus(site="home", origin="hub.fleet", transports=broker.transports("hub"))
        self.asker = Bus(site="home", origin="desk.people", transports=broker.transports("desk"))
        self.done: list[Mapping[str, str]] = []
        self.replies: list[Reply] = []
        self.asker.subscribe(NODE_REPLY, self._on_reply)
        Desk(self.bus, {"count": self._count, "fail": self._fail}).start()
        for bus in (self.bus, self.asker):
            bus.start()
            assert bus.wait_connected(10)

    def _count(self, arguments: Mapping[str, str]) -> Mapping[str, str]:
        self.done.append(arguments)
        return {"done": str(len(self.done))}

    def _fail(self, _arguments: Mapping[str, str]) -> Mapping[str, str]:
        raise TransientError("no room: ask again")

    def _on_reply(self, delivery: Delivery) -> None:
        assert isinstance(delivery.content, Reply)
        self.replies.append(delivery.content)

    def ask(self, name: str, correlation_id: str) -> Reply:
        before = len(self.replies)
        self.asker.publish(HERE, Command(correlation_id=correlation_id, name=name, arguments={"a": "b"}))
        wait_until(lambda: len(self.replies) > before, what="an answer")
        return self.replies[-1]


@pytest.fixture
def office() -> Iterator[Office]:
    made = Office()
    yield made
    for bus in (made.bus, made.asker):
        bus.close(0.0)


def test_who_asks_again_is_answered_again_and_nothing_is_done_twice(office: Office) -> None:
    first = office.ask("count", "c1")
    assert (first.ok, first.result) == (True, {"done": "1"})
    assert office.ask("count", "c1") == first
    assert office.ask("count", "c2").result == {"done": "2"}
    assert office.done == [{"a": "b"}] * 2


def test_what_cannot_be_done_is_answered_with_the_reason(office: Office) -> None:
    assert office.ask("fail", "c1").reason == "no room: ask again"
    unknown = office.ask("dance", "c2")
    assert not unknown.ok
    assert unknown.reason == "there is no order 'dance' here; known are count, fail, refresh, status"
