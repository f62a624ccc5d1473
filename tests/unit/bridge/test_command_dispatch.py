"""Commands on their way, on a bus in memory and a clock that the test moves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.commands.answered import Answered
from bridge.commands.dispatch import Dispatcher
from bridge.commands.messages import Received
from bridge.commands.registry import Registry
from broker import Bus, Delivery
from broker.memory import MemoryBroker
from broker.messages import CameraDocument, Command, CommandValue, NodeStatus, Reply
from broker.topics import CAMERA_SET, CAMERA_STATE, NODE_COMMAND, NODE_REPLY, NODE_STATUS, REGISTRY_CAMERA
from config.outside import CommandRule
from tests.support.clocks import HeldClock
from tests.support.messages import AT, camera_state
from tests.support.waiting import wait_until

ALL = (CommandRule(nodes=("*",), commands=("*",)),)
MODE = {"id": "c1", "camera": "yard", "property": "mode", "value": "eco"}


class World:
    """A dispatcher, a node that answers when it is told to, and what lies in Kafka."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = MemoryBroker()
        self.clock = HeldClock(AT)
        self.orders: list[Command | CommandValue] = []
        self.documents: dict[str, CameraDocument] = {}
        self.replies: list[tuple[int, dict[str, Any]]] = []
        self.offset = 0
        self.node = self._bus("porch", "edge")
        for spec in (CAMERA_SET, NODE_COMMAND):
            self.node.subscribe(spec, self._on_order)
        self.node.subscribe(REGISTRY_CAMERA, self._on_document)
        self.node.start()
        assert self.node.wait_connected(10)
        self.node.publish(CAMERA_STATE.at("home", camera="yard"), camera_state("yard"))
        self.begin()

    def begin(self, rules: tuple[CommandRule, ...] = ALL) -> None:
        """A process that begins with what is on the disk."""
        self.answered = Answered(self.folder / "answered.db")
        self.bus = self._bus("hub", "commands")
        self.dispatcher = Dispatcher(self.bus, self, self.answered, rules=rules, reply_within_s=10.0, clock=self.clock)
        self.registry = Registry(
            self.bus, self.dispatcher.known.document, self.answered, on_refused=self.reply, clock=self.clock
        )
        self.dispatcher.start()
        self.bus.start()
        assert self.bus.wait_connected(10)

    def die(self) -> None:
        self.bus.close(0)
        self.answered.close()

    def _bus(self, node: str, role: str) -> Bus:
        return Bus(site="home", origin=f"{node}.{role}", transports=self.broker.transports(node))

    def _on_order(self, delivery: Delivery) -> None:
        if isinstance(delivery.content, Command | CommandValue):
            self.orders.append(delivery.content)

    def _on_document(self, delivery: Delivery) -> None:
        if isinstance(delivery.content, CameraDocument):
            self.documents[delivery.topic.camera] = delivery.content
        else:
            self.documents.pop(delivery.topic.camera, None)

    def reply(self, received: Received, command: str, payload: bytes) -> None:
        content = json.loads(payload)
        assert content["id"] == command
        self.replies.append((received.place[2], content))

    def ask(self, content: object) -> int:
        self.offset += 1
        value = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.dispatcher.take(Received(("commands", 0, self.offset), b"yard", value, {}))
        return self.offset

    def tend_until(self, condition: Callable[[], object], what: str) -> None:
        def tended() -> object:
            self.dispatcher.tend()
            self.registry.tend()
            return condition()

        wait_until(tended, what=what)

    def answer(self, correlation_id: str, *, ok: bool = True, node: str = "porch", reason: str = "") -> None:
        reply = Reply(correlation_id=correlation_id, ok=ok, reason=reason, result={"mode": "eco"})
        self.node.publish(NODE_REPLY.at("home", node=node, role="edge"), reply)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.die()
    world.node.close(0)


def test_a_command_is_sent_once_and_answered_as_often_as_it_is_asked(world: World) -> None:
    first = world.ask(MODE)
    second = world.ask(MODE)
    world.tend_until(lambda: world.orders, "the order")
    world.answer("c1")
    world.tend_until(lambda: len(world.replies) == 2, "both answers")
    third = world.ask(MODE)
    assert [offset for offset, _ in world.replies] == [first, second, third]
    assert {json.dumps(reply) for _, reply in world.replies} == {json.dumps(world.replies[0][1])}
    assert world.replies[0][1]["result"] == {"mode": "eco"}
    assert len(world.orders) == 1
    assert world.dispatcher.figures().counts["commands_repeated"] == 2


def test_what_was_carried_out_before_a_crash_is_answered_and_not_done_again(world: World) -> None:
    world.ask(MODE)
    world.tend_until(lambda: world.orders, "the order")
    world.answer("c1", ok=False, reason="no")
    world.tend_until(lambda: world.replies, "the answer")
    world.die()
    world.begin()
    world.ask(MODE)
    assert [reply["reason"] for _, reply in world.replies] == ["no", "no"]
    assert len(world.orders) == 1


def test_what_was_under_way_at_a_crash_goes_out_again_under_the_same_id(world: World) -> None:
    world.ask(MODE)
    world.tend_until(lambda: world.orders, "the order")
    world.die()
    world.begin()
    world.ask(MODE)
    world.tend_until(lambda: len(world.orders) == 2, "the order again")
    assert {order.correlation_id for order in world.orders} == {"c1"}
    world.answer("c1")
    world.tend_until(lambda: world.replies, "the answer")


def test_without_an_answer_it_says_so_and_the_same_id_may_try_again(world: World) -> None:
    world.ask(MODE)
    world.tend_until(lambda: world.orders, "the order")
    world.clock.advance(10.5)
    world.tend_until(lambda: world.replies, "the answer")
    assert "no answer within 10 s: its node node-1 is silent" in world.replies[0][1]["reason"]
    world.ask(MODE)
    world.tend_until(lambda: len(world.orders) == 2, "the order again")


def test_while_the_broker_is_away_a_command_waits_and_goes_out_when_it_is_back(world: World) -> None:
    connections = world.bus.connections
    world.broker.stop()
    wait_until(lambda: not world.bus.connected, what="the outage")
    world.ask(MODE)
    world.clock.advance(1000)
    world.dispatcher.tend()
    assert world.replies == []
    world.broker.start()
    wait_until(lambda: world.bus.connections > connections and world.node.connections > 1, what="the connections")
    world.tend_until(lambda: world.orders, "the order")
    world.answer("c1")
    world.tend_until(lambda: world.replies, "the answer")
    assert world.replies[0][1]["ok"]


def test_one_that_expires_while_it_waits_is_not_carried_out(world: World) -> None:
    world.broker.stop()
    wait_until(lambda: not world.bus.connected, what="the outage")
    world.ask({**MODE, "expires_at": "2026-01-01T00:00:00Z"})
    world.dispatcher.tend()
    assert "expired at 2026-01-01" in world.replies[0][1]["reason"]
    world.broker.start()
    assert world.orders == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"[]", "a command is a JSON object"), ({**MODE, "camera": "yrad"}, "did you mean yard?")],
)
def test_what_cannot_be_done_is_answered_too(world: World, content: object, reason: str) -> None:
    world.ask(content)
    world.dispatcher.tend()
    world.clock.advance(2.5)
    world.tend_until(lambda: world.replies, "the answer")
    assert reason in world.replies[0][1]["reason"]
    assert world.orders == []


def test_what_no_rule_allows_goes_nowhere(world: World) -> None:
    world.die()
    world.begin(rules=())
    world.ask(MODE)
    world.dispatcher.tend()
    assert "not allowed" in world.replies[0][1]["reason"]
    assert world.orders == []


def test_an_id_that_was_another_commands_is_refused(world: World) -> None:
    world.ask(MODE)
    world.ask({**MODE, "value": "off"})
    assert "another command's" in world.replies[0][1]["reason"]


def test_the_answer_of_another_process_is_not_taken(world: World) -> None:
    status = NodeStatus(node="porch", role="edge", state="online", at=AT, started_at=AT)
    world.node.publish(NODE_STATUS.at("home", node="porch", role="edge"), status)
    world.ask({"id": "c2", "node": "porch", "name": "ping"})
    world.ask(MODE)
    world.tend_until(lambda: len(world.orders) == 2, "the orders")
    world.answer("c2", node="gate")
    world.answer("c1", node="gate")  # a camera's node is whoever has it
    world.tend_until(lambda: world.replies, "an answer")
    assert [reply["id"] for _, reply in world.replies] == ["c1"]
    world.answer("c2")
    world.tend_until(lambda: len(world.replies) == 2, "the other's answer")
    assert world.replies[1][1]["by"] == "porch.edge"


def test_records_that_are_somebody_elses_now_are_left_to_them(world: World) -> None:
    world.ask(MODE)
    world.dispatcher.forget(lambda received: received.place[1] == 0)
    world.dispatcher.tend()
    assert world.dispatcher.figures().queues["commands_open"] == 0


def document(revision: int) -> bytes:
    return json.dumps({"camera": "yard", "source": "synthetic:street", "revision": revision}).encode()


def put(world: World, value: bytes | None, name: str = "yard") -> None:
    world.offset += 1
    world.registry.take(Received(("cameras", 0, world.offset), name.encode(), value, {}))


def settle(world: World) -> None:
    """What is retained has had its time to come."""
    world.registry.tend()
    world.clock.advance(2.5)


def revision(world: World) -> int | None:
    found = world.documents.get("yard")
    return None if found is None else found.revision


def test_the_last_document_of_a_camera_is_published_and_a_tombstone_clears_it(world: World) -> None:
    settle(world)
    put(world, document(1))
    put(world, document(2))
    world.registry.tend()
    assert world.documents == {}  # the topic is not read to its end yet
    world.registry.read_through()
    world.tend_until(lambda: revision(world) == 2, "the document")
    world.tend_until(lambda: not world.registry.figures().queues["documents"], "its way back")
    put(world, None)
    world.tend_until(lambda: revision(world) is None, "its end")
    assert world.registry.figures().counts["documents_published"] == 2


def test_a_camera_that_the_topic_forgot_is_cleared_and_one_it_never_named_stays(world: World) -> None:
    for name in ("yard", "door"):
        other = CameraDocument(camera=name, source="synthetic:street", revision=1)
        world.node.publish(REGISTRY_CAMERA.at("home", camera=name), other)
    world.answered.keep_cameras(add=["yard"])
    settle(world)
    world.registry.read_through()
    world.tend_until(lambda: revision(world) is None, "its end")
    assert set(world.documents) == {"door"}


def test_an_older_document_than_the_one_that_holds_is_refused(world: World) -> None:
    newer = CameraDocument(camera="yard", source="synthetic:street", revision=9)
    world.node.publish(REGISTRY_CAMERA.at("home", camera="yard"), newer)
    settle(world)
    wait_until(lambda: world.dispatcher.known.document("yard") == newer, what="what is retained")
    put(world, document(3))
    world.registry.read_through()
    world.registry.tend()
    assert "older than 9" in world.replies[0][1]["reason"]
    assert revision(world) == 9
