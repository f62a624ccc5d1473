from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from bridge.status_feed import HEALTH, STATES, Status, StatusFeed, forwarded_statuses
from broker.bus import Bus
from broker.memory import MemoryBroker
from broker.messages import Message, NodeHealth, NodeStatus, encode_json
from broker.topics import CAMERA_STATE, NODE_HEALTH, NODE_STATUS, Topic
from broker.transport import Outbound, TransportEvents
from tests.support.messages import AT, camera_state
from tests.support.waiting import wait_until


class FakeWriter:
    """Takes what there is room for, and says of it what the test wants."""

    def __init__(self) -> None:
        self.room = 1_000
        self.taken: list[Status] = []
        self.failing: list[Status] = []
        self._unsaid = 0
        self.closed = False

    def open(self) -> None:
        """Nothing to do."""

    def write(self, statuses: Sequence[Status]) -> int:
        fitting = list(statuses[: self.room])
        self.taken += fitting
        self._unsaid += len(fitting)
        return len(fitting)

    def settle(self) -> tuple[int, list[Status]]:
        failed, self.failing = self.failing, []
        arrived, self._unsaid = self._unsaid, 0
        return arrived, failed

    def close(self, timeout_s: float) -> None:
        self.closed = True


class Mesh:
    """A broker, somebody who says things, and the feed."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.writer = FakeWriter()
        self.served = {"yard", "door", "node-1"}
        self.bus = Bus(site="home", origin="node-1.bridge", transports=self.broker.transports("bridge"))
        self.feed = StatusFeed(self.bus, self.writer, lines=(*STATES, *HEALTH), serves=lambda name: name in self.served)
        self.stranger = self.broker.transports("stranger")(TransportEvents(lambda _m: None, lambda _n, _r: None), None)
        self.stranger.open()

    def start(self) -> None:
        self.feed.start()
        self.bus.start()
        assert self.bus.wait_connected(30)

    def say(self, topic: Topic, message: Message | None) -> None:
        payload = b"" if message is None else encode_json(message)
        self.stranger.publish(Outbound(str(topic), payload, 1, retain=topic.spec.retain))

    def close(self) -> None:
        self.feed.close(0.0)
        self.bus.close(0.0)
        assert self.writer.closed

    def wait_taken(self, *expected: tuple[Topic, Message | None]) -> None:
        wanted = sorted((str(topic), encode_json(said) if said is not None else b"") for topic, said in expected)

        def taken() -> list[tuple[str, bytes]]:
            return sorted((str(status.topic), status.payload) for status in self.writer.taken)

        wait_until(lambda: len(taken()) >= len(wanted), timeout_s=30, what=f"{len(wanted)} statuses")
        assert taken() == wanted


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    made = Mesh()
    yield made
    made.close()


def state(camera: str = "yard") -> Topic:
    return CAMERA_STATE.at("home", camera=camera)


def health(node: str = "node-1", **changes: int) -> tuple[Topic, NodeHealth]:
    message = NodeHealth(
        node=node, role="edge", at=AT, uptime_s=1.0, cpu_percent=2.0, memory_bytes=3, disk_free_bytes=4, counts=changes
    )
    return NODE_HEALTH.at("home", node=node, role="edge"), message


def test_what_is_forwarded_is_what_the_settings_name() -> None:
    assert forwarded_statuses(("motion", "track")) == ()
    assert forwarded_statuses(("state",)) == STATES
    assert forwarded_statuses(("health", "motion", "state")) == (*STATES, *HEALTH)


def test_states_and_health_go_out_and_what_is_taken_back_too(mesh: Mesh) -> None:
    status = NodeStatus(node="node-1", role="edge", state="online", at=AT, started_at=AT)
    said = [(state(), camera_state()), (NODE_STATUS.at("home", node="node-1", role="edge"), status), health()]
    mesh.say(*said[0])  # before anybody listens: the broker keeps it
    mesh.start()
    for topic, message in said[1:]:
        mesh.say(topic, message)
    mesh.wait_taken(*said)
    assert {status.at for status in mesh.writer.taken} == {"2026-01-01T12:00:00.000000Z"}

    mesh.say(state(), None)
    mesh.wait_taken(*said, (state(), None))
    wait_until(lambda: mesh.feed.figures().counts == {"status_written": 4}, timeout_s=30, what="all four")


def test_while_there_is_no_room_only_the_latest_of_each_waits(mesh: Mesh) -> None:
    mesh.writer.room = 0
    mesh.start()
    for fps in range(20):
        mesh.say(state(), camera_state(fps=float(fps)))
        mesh.say(state("door"), camera_state("door", fps=float(fps)))
    wait_until(
        lambda: mesh.feed.figures().drops["status_replaced"] >= 38, timeout_s=30, what="38 made way for newer ones"
    )
    wait_until(lambda: mesh.feed.figures().queues == {"status": 2}, timeout_s=30, what="one of each")
    mesh.writer.room = 10
    mesh.wait_taken((state(), camera_state(fps=19.0)), (state("door"), camera_state("door", fps=19.0)))


def test_a_state_that_did_not_arrive_is_written_again_unless_there_is_a_newer_one(mesh: Mesh) -> None:
    mesh.start()
    mesh.say(state(), camera_state(fps=1.0))
    mesh.say(state("door"), camera_state("door", fps=1.0))
    mesh.say(*health())
    wait_until(lambda: len(mesh.writer.taken) == 3, timeout_s=30, what="all three")

    # One older state, one still true, and a health report that nobody needs any more.
    mesh.writer.room = 0
    mesh.say(state(), camera_state(fps=2.0))
    wait_until(lambda: mesh.feed.figures().queues == {"status": 1}, timeout_s=30, what="the newer one")
    before, mesh.writer.taken = mesh.writer.taken, []
    mesh.writer.failing = before
    wait_until(lambda: mesh.feed.figures().drops["status_dropped"] == 1, timeout_s=30, what="the health report")
    mesh.writer.room = 10
    mesh.wait_taken((state(), camera_state(fps=2.0)), (state("door"), camera_state("door", fps=1.0)))


def test_an_old_state_that_did_not_arrive_never_follows_a_newer_one_that_did(mesh: Mesh) -> None:
    mesh.start()
    mesh.say(state(), camera_state(fps=1.0))
    mesh.wait_taken((state(), camera_state(fps=1.0)))
    (older,) = mesh.writer.taken
    mesh.say(state(), camera_state(fps=2.0))
    mesh.wait_taken((state(), camera_state(fps=1.0)), (state(), camera_state(fps=2.0)))
    mesh.writer.failing = [older]
    wait_until(lambda: mesh.feed.figures().drops["status_replaced"] == 1, timeout_s=30, what="the older one's end")
    mesh.say(state("door"), camera_state("door"))
    mesh.wait_taken(
        (state(), camera_state(fps=1.0)), (state(), camera_state(fps=2.0)), (state("door"), camera_state("door"))
    )


def test_what_is_another_bridges_waits_and_goes_out_when_it_becomes_this_ones(mesh: Mesh) -> None:
    mesh.served = {"yard"}
    mesh.start()
    mesh.say(*health("node-1"))
    mesh.say(state("door"), camera_state("door"))
    mesh.say(state("yard"), camera_state("yard"))
    mesh.wait_taken((state("yard"), camera_state("yard")))
    mesh.served = {"yard", "door", "node-1"}
    mesh.wait_taken((state("yard"), camera_state("yard")), (state("door"), camera_state("door")))


def test_room_is_bounded(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.status_feed._TOPICS_MAX", 2)
    mesh.served = {"yard", "a", "b", "c"}
    mesh.writer.room = 0
    mesh.start()
    for name in ("a", "b", "c"):
        mesh.say(state(name), camera_state(name))
    wait_until(lambda: mesh.feed.figures().drops["status_dropped"] >= 1, timeout_s=30, what="one without room")
    wait_until(lambda: mesh.feed.figures().queues == {"status": 2}, timeout_s=30, what="two that wait")


def test_what_is_no_state_is_rejected_as_everywhere(mesh: Mesh) -> None:
    mesh.start()
    mesh.stranger.publish(Outbound(str(state()), b'{"v": 2}', 1, retain=True))
    mesh.say(state("door"), camera_state("door"))
    mesh.wait_taken((state("door"), camera_state("door")))
