"""Workers on one bus, in memory, and a clock that stands still until it is told: who has which camera."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import pytest

from broker import Bus, Delivery, assignment
from broker.memory import MemoryBroker
from broker.messages import CameraOwner, NodeStatus, WorkerBeat, WorkerStatus
from broker.topics import CAMERA_OWNER, CAMERA_STATE, NODE_STATUS, NODE_WORKER, NODE_WORKER_BEAT
from detector.ownership import CameraScores, Offer, Ownership, OwnsAll
from tests.support.clocks import HeldClock
from tests.support.messages import AT, camera_state
from tests.support.waiting import wait_until

_STEPS_MAX = 50
CAMERAS = tuple(f"camera-{number}" for number in range(8))


def share_of(node: str, *others: str) -> set[str]:
    """What falls to a worker beside others."""
    workers = [assignment.Worker(f"{name}.detector", 100.0) for name in (node, *others)]
    owners = assignment.assign(workers, [assignment.Demand(camera, 2.0) for camera in CAMERAS]).owners
    share = {camera for camera, owner in owners.items() if owner == f"{node}.detector"}
    assert share
    return share


class Site:
    """A broker, the node of eight cameras, and whoever listens."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.clock = HeldClock(AT)
        self.owners: dict[str, CameraOwner] = {}
        self.beats: dict[str, WorkerBeat] = {}
        self.buses: list[Bus] = []
        self.node = self.bus("node-1", "edge")
        self.node.subscribe(CAMERA_OWNER, self._on_owner)
        self.node.subscribe(NODE_WORKER_BEAT, self._on_beat)
        self.node.start()
        assert self.node.wait_connected(10)

    def bus(self, node: str, role: str = "detector") -> Bus:
        gone = NodeStatus(node=node, role=role, state="offline", at=AT, started_at=AT)
        bus = Bus(
            site="home",
            origin=f"{node}.{role}",
            transports=self.broker.transports(node),
            will=(NODE_STATUS.at("home", node=node, role=role), gone),
        )
        self.buses.append(bus)
        return bus

    def _on_owner(self, delivery: Delivery) -> None:
        if isinstance(delivery.content, CameraOwner):
            self.owners[delivery.topic.camera] = delivery.content

    def _on_beat(self, delivery: Delivery) -> None:
        if isinstance(delivery.content, WorkerBeat):
            self.beats[delivery.content.worker] = delivery.content

    def said_at(self, origin: str) -> datetime:
        """When a worker said last that it is there."""
        beat = self.beats.get(origin)
        return AT - timedelta(days=1) if beat is None else beat.at

    def announce(self, camera: str, **changes: object) -> None:
        state = camera_state(camera, **{"demand_fps": 2.0, "at": self.clock.now(), **changes})
        self.node.publish(CAMERA_STATE.at("home", camera=camera), state)

    def owner(self, camera: str) -> str:
        word = self.owners.get(camera)
        return "" if word is None else word.worker

    def close(self) -> None:
        for bus in self.buses:
            bus.close(0)


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    for camera in CAMERAS:
        site.announce(camera)
    workers = Worker.started = []
    yield site
    for worker in workers:
        worker.ownership.close()
    site.close()


class Worker:
    """An ownership on a bus of its own, and what it was told."""

    started: list[Worker]

    def __init__(self, site: Site, node: str, capacity_fps: float = 100.0) -> None:
        self.site, self.origin = site, f"{node}.detector"
        self.bus = site.bus(node)
        self.capacity_fps = capacity_fps
        self.own: dict[str, int] = {}
        self.claimed: list[str] = []
        self.ownership = Ownership(
            self.bus, self._offer, scored=lambda: {"camera-0": CameraScores(fps=1.5, late=3)}, clock=site.clock
        )
        Worker.started.append(self)
        self.ownership.start(self.own.__setitem__, self._on_loss, self.claimed.append)
        self.bus.start()

    def _on_loss(self, camera: str) -> None:
        self.own.pop(camera, None)

    def _offer(self) -> Offer:
        return Offer(self.capacity_fps, labels=("person",))

    def wait_owns(self, condition: Callable[[set[str]], bool]) -> None:
        wait_until(lambda: condition(set(self.own)), what=f"cameras of {self.origin}, which has {sorted(self.own)}")


class Scripted:
    """A worker that does only what the test says."""

    def __init__(self, site: Site, node: str) -> None:
        self.site, self.place, self.origin = site, {"node": node, "role": "detector"}, f"{node}.detector"
        self.bus = site.bus(node)
        self.bus.start()
        assert self.bus.wait_connected(10)
        status = WorkerStatus(worker=self.origin, state="online", at=AT, capacity_fps=100.0, labels=("person",))
        self.bus.publish(NODE_WORKER.at("home", **self.place), status)

    def beat(self) -> None:
        beat = WorkerBeat(worker=self.origin, seq=1, at=self.site.clock.now())
        self.bus.publish(NODE_WORKER_BEAT.at("home", **self.place), beat)

    def die(self) -> None:
        """Its connection breaks: the broker says so, in its name."""
        self.bus.close(0)
        gone = NodeStatus(node=self.place["node"], role=self.place["role"], state="offline", at=AT, started_at=AT)
        self.site.node.publish(NODE_STATUS.at("home", **self.place), gone)

    def claim_share(self, *nodes: str) -> set[str]:
        """Claim what falls to it where these are there too; returns what that is."""
        share = share_of(self.place["node"], *nodes)
        for camera in share:
            self.claim(camera, 2)
        return share

    def claim(self, camera: str, epoch: int) -> None:
        owner = CameraOwner(camera=camera, worker=self.origin, epoch=epoch, at=AT)
        self.bus.publish(CAMERA_OWNER.at("home", camera=camera), owner)


def pass_time(site: Site, seconds: int, *living: Scripted) -> None:
    """Let time pass as it does: second by second, with everybody's beats."""
    for _ in range(seconds):
        site.clock.advance(1.0)
        for scripted in living:
            scripted.beat()
        now = site.clock.now()
        for worker in Worker.started:
            wait_until(lambda worker=worker, now=now: site.said_at(worker.origin) >= now, what="a beat")  # type: ignore[misc]


def pass_time_until(site: Site, condition: Callable[[], object]) -> None:
    """Let time pass until something holds that needs some, such as that for which a newcomer listens."""
    for _ in range(_STEPS_MAX):
        if condition():
            return
        pass_time(site, 1)
    raise AssertionError("it does not come with time")


def drain(worker: Worker) -> None:
    """A planned stop, which waits for the others."""
    stopping = threading.Thread(target=worker.ownership.drain, args=(1000,), daemon=True)
    stopping.start()
    pass_time_until(worker.site, lambda: not stopping.is_alive())


def share_out(site: Site, one: Worker, two: Worker) -> None:
    """Until each of the two has its share."""
    nodes = one.bus.origin.partition(".")[0], two.bus.origin.partition(".")[0]
    shares = share_of(*nodes), share_of(*reversed(nodes))
    pass_time_until(site, lambda: (set(one.own), set(two.own)) == shares)


def test_a_worker_alone_takes_everything_without_any_time_passing(site: Site) -> None:
    one = Worker(site, "one")
    one.wait_owns(lambda own: own == set(CAMERAS))
    assert set(one.own.values()) == {1}
    assert sorted(one.claimed) == sorted(CAMERAS)
    assert [one.ownership.epoch(camera) for camera in CAMERAS] == [1] * len(CAMERAS)
    assert one.ownership.epoch("elsewhere") is None
    assert one.ownership.figures().counts["cameras_owned"] == len(CAMERAS)


def test_a_second_worker_takes_its_share_and_the_first_gives_it(site: Site) -> None:
    one = Worker(site, "one")
    one.wait_owns(lambda own: own == set(CAMERAS))
    two = Worker(site, "two")
    share_out(site, one, two)
    assert set(two.own.values()) == {2}
    assert set(one.own.values()) == {1}


def test_the_cameras_of_a_worker_whose_connection_broke_are_taken_at_once(site: Site) -> None:
    one = Worker(site, "one")
    one.wait_owns(lambda own: own == set(CAMERAS))
    other = Scripted(site, "other")
    share = other.claim_share("one")
    one.wait_owns(lambda own: own == set(CAMERAS) - share)
    pass_time(site, 5, other)
    assert set(one.own) == set(CAMERAS) - share
    other.die()
    one.wait_owns(lambda own: own == set(CAMERAS))
    assert {one.own[camera] for camera in share} == {3}


def test_the_cameras_of_a_frozen_worker_are_taken_after_a_while(site: Site) -> None:
    one = Worker(site, "one")
    one.wait_owns(lambda own: own == set(CAMERAS))
    frozen = Scripted(site, "frozen")
    share = frozen.claim_share("one")
    one.wait_owns(lambda own: own == set(CAMERAS) - share)
    pass_time(site, 5, frozen)
    pass_time(site, 2)
    assert set(one.own) == set(CAMERAS) - share
    pass_time(site, 2)
    one.wait_owns(lambda own: own == set(CAMERAS))


def test_when_all_others_fall_silent_nobody_takes_their_cameras(site: Site) -> None:
    one = Worker(site, "one")
    one.wait_owns(lambda own: own == set(CAMERAS))
    two, three = Scripted(site, "two"), Scripted(site, "three")
    shares = two.claim_share("one", "three") | three.claim_share("one", "two")
    one.wait_owns(lambda own: own == set(CAMERAS) - shares)
    pass_time(site, 3, two, three)
    pass_time(site, 10)
    assert set(one.own) == set(CAMERAS) - shares
    assert one.ownership.figures().counts["bus_doubts"] == 1


def test_a_worker_whose_own_beats_do_not_come_back_scores_nothing(site: Site) -> None:
    one = Worker(site, "one")
    one.wait_owns(lambda own: own == set(CAMERAS))
    pass_time(site, 1)
    wait_until(lambda: one.ownership.epoch(CAMERAS[0]) == 1, what="its lease")
    site.broker.stop()
    site.clock.advance(3.5)
    assert one.ownership.epoch(CAMERAS[0]) is None
    site.broker.start()
    wait_until(lambda: one.ownership.epoch(CAMERAS[0]) == 1, what="its lease again")
    assert set(one.own) == set(CAMERAS)


@pytest.mark.parametrize("forgets", [False, True])
def test_a_restart_of_the_broker_moves_nothing(site: Site, *, forgets: bool) -> None:
    one = Worker(site, "one")
    one.wait_owns(lambda own: own == set(CAMERAS))
    two = Worker(site, "two")
    share_out(site, one, two)
    before = (dict(one.own), dict(two.own))
    connections = site.node.connections
    site.broker.stop()
    if forgets:
        site.broker.forget()
    site.broker.start()
    wait_until(lambda: site.node.connections > connections, what="the node's connection")
    pass_time(site, 15)
    assert (one.own, two.own) == before
    assert {site.owner(camera) for camera in one.own} == {one.origin}


def test_a_planned_stop_hands_everything_over_before_it_ends(site: Site) -> None:
    one = Worker(site, "one")
    one.wait_owns(lambda own: own == set(CAMERAS))
    two = Worker(site, "two")
    share_out(site, one, two)
    drain(one)
    assert one.own == {}
    two.wait_owns(lambda own: own == set(CAMERAS))
    wait_until(lambda: {site.owner(camera) for camera in CAMERAS} == {two.origin}, what="the owners")


def test_a_planned_stop_of_the_only_worker_waits_for_nobody(site: Site) -> None:
    one = Worker(site, "one")
    one.wait_owns(lambda own: own == set(CAMERAS))
    one.ownership.drain(1000)
    assert set(one.own) == set(CAMERAS)


def test_what_the_others_have_no_room_for_stays_until_the_end(site: Site) -> None:
    one = Worker(site, "one")
    one.wait_owns(lambda own: own == set(CAMERAS))
    two = Worker(site, "two", capacity_fps=1.0)  # two get the least that they can do with
    pass_time(site, 1)
    drain(one)
    assert len(one.own) == 6
    two.wait_owns(lambda own: own == set(CAMERAS) - set(one.own))
    one.ownership.close()
    Worker.started.remove(one)
    wait_until(lambda: [site.owner(camera) for camera in CAMERAS].count("") == 6, what="orphans")
    wait_until(lambda: two.ownership.figures().queues["cameras_orphaned"] == 6, what="the figure to scale on")


def test_an_orphan_is_taken_when_there_is_room(site: Site) -> None:
    one = Worker(site, "one", capacity_fps=3.5)
    one.wait_owns(lambda own: len(own) == 7)
    assert one.ownership.figures().queues["cameras_squeezed"] == 6
    (left,) = set(CAMERAS) - set(one.own)
    wait_until(lambda: left in site.owners, what="word of the orphan")
    assert site.owners[left].worker == ""
    one.capacity_fps = 16.0
    pass_time(site, 1)
    wait_until(lambda: one.own.get(left) == 2, what="the orphan")


def test_a_camera_that_nobody_is_to_score_is_given_up_and_taken_again(site: Site) -> None:
    one = Worker(site, "one")
    one.wait_owns(lambda own: own == set(CAMERAS))
    site.announce(CAMERAS[0], privacy=True)
    one.wait_owns(lambda own: own == set(CAMERAS[1:]))
    site.announce(CAMERAS[0])
    one.wait_owns(lambda own: own == set(CAMERAS))
    assert one.own[CAMERAS[0]] == 2


def test_a_camera_that_asks_for_another_class_or_label_is_not_taken(site: Site) -> None:
    site.announce("fast", worker_class="gpu")
    site.announce("kennel", labels=("dog",))
    one = Worker(site, "one")
    one.wait_owns(lambda own: own == set(CAMERAS))
    wait_until(lambda: one.ownership.figures().queues["cameras_orphaned"] == 2, what="orphans")


def test_an_outdated_claim_does_not_last(site: Site) -> None:
    one = Worker(site, "one")
    one.wait_owns(lambda own: own == set(CAMERAS))
    other = Scripted(site, "other")
    other.claim(CAMERAS[0], 0)
    wait_until(lambda: one.ownership.figures().counts["claims_defended"] == 1, what="the defence")
    wait_until(lambda: site.owner(CAMERAS[0]) == one.origin, what="the word of the owner")
    assert one.own[CAMERAS[0]] == 1


def test_a_beat_tells_how_each_camera_does(site: Site) -> None:
    one = Worker(site, "one")
    one.wait_owns(lambda own: own == set(CAMERAS))
    pass_time(site, 1)
    wait_until(lambda: len(site.beats[one.origin].cameras) == len(CAMERAS), what="a beat with every camera")
    cameras = site.beats[one.origin].cameras
    assert (cameras["camera-0"].fps, cameras["camera-0"].late, cameras["camera-0"].epoch) == (1.5, 3, 1)
    assert cameras["camera-1"].fps == 0.0


def test_a_node_that_scores_its_own_owns_every_camera() -> None:
    gained: list[tuple[str, int]] = []
    everything = OwnsAll()
    everything.start(lambda camera, epoch: gained.append((camera, epoch)), lambda _camera: None)
    assert [everything.epoch("yard"), everything.epoch("yard"), everything.epoch("door")] == [0, 0, 0]
    assert gained == [("yard", 0), ("door", 0)]


def test_a_node_that_scores_its_own_gives_up_what_it_watches_no_more() -> None:
    said: list[str] = []
    owned = OwnsAll()
    owned.start(lambda camera, _epoch: said.append(f"gained {camera}"), lambda camera: said.append(f"lost {camera}"))
    assert owned.epoch("yard") == 0
    owned.leave("yard")
    owned.leave("yard")
    assert owned.epoch("yard") == 0
    assert said == ["gained yard", "lost yard", "gained yard"]
