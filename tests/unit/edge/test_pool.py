"""Which cameras of a pool are whose: edges on one bus whose clock stands still until it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from broker import Bus, Delivery
from broker.memory import MemoryBroker
from broker.messages import EdgeBeat, NodeStatus
from broker.topics import NODE_EDGE_BEAT, NODE_STATUS
from edge.pool import PoolShare
from tests.support.clocks import HeldClock
from tests.support.messages import AT
from tests.support.waiting import wait_until

POOL = "street"
CAMERAS = frozenset({"c1", "c2", "c3", "c4"})
_STEPS_MAX = 50


class Site:
    """A broker and whoever listens."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.clock = HeldClock(AT)
        self.beats: dict[str, EdgeBeat] = {}
        self.buses: list[Bus] = []
        self.running: list[Running] = []
        self.watcher = self.bus("watcher", "console")
        self.watcher.subscribe(NODE_EDGE_BEAT, self._on_beat)
        self.watcher.start()
        assert self.watcher.wait_connected(10)

    def bus(self, node: str, role: str = "edge") -> Bus:
        bus = Bus(site="home", origin=f"{node}.{role}", transports=self.broker.transports(node))
        self.buses.append(bus)
        return bus

    def _on_beat(self, delivery: Delivery) -> None:
        if isinstance(delivery.content, EdgeBeat):
            self.beats[delivery.content.edge] = delivery.content

    def pass_time_until(self, condition: Callable[[], object], *living: Scripted) -> None:
        """Second by second, with everybody's beats."""
        for _ in range(_STEPS_MAX):
            for edge in self.running:
                edge.tend()
            if condition():
                return
            self.pass_time(1, *living)
        raise AssertionError("it does not come with time")

    def pass_time(self, seconds: int, *living: Scripted) -> None:
        for _ in range(seconds):
            self.clock.advance(1.0)
            for scripted in living:
                scripted.beat()
            now = self.clock.now()
            for edge in self.running:
                wait_until(lambda e=edge, n=now: self.beats[e.origin].at >= n, what="a beat")  # type: ignore[misc]
                edge.tend()

    def close(self) -> None:
        for edge in self.running:
            edge.pool.close()
        for bus in self.buses:
            bus.close(0)


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


class Running:
    """An edge that watches at once what it may, and leaves at once what it may not."""

    def __init__(self, site: Site, node: str, cameras_max: int = 0) -> None:
        self.site, self.origin = site, f"{node}.edge"
        self.bus = site.bus(node)
        self.overtaken: list[str] = []
        self.watched = frozenset[str]()
        self.pool = PoolShare(self.bus, clock=site.clock, on_overtaken=self.overtaken.append, cameras_max=cameras_max)
        site.running.append(self)
        self.pool.offer((POOL,), dict.fromkeys(CAMERAS, POOL))
        say(self.bus, "online")
        self.bus.start()
        wait_until(lambda: self.origin in site.beats, what="its first beat")

    def tend(self) -> None:
        self.watched = self.pool.mine()
        self.pool.watches(self.watched)

    def wait_watches(self, cameras: int) -> None:
        def watches() -> bool:
            self.tend()
            return len(self.watched) == cameras

        wait_until(watches, what=f"{cameras} cameras")


def say(bus: Bus, state: str) -> None:
    node, _, role = bus.origin.partition(".")
    status = NodeStatus(node=node, role=role, state=state, at=AT, started_at=AT)  # type: ignore[arg-type]
    bus.publish(NODE_STATUS.at("home", node=node, role=role), status)


class Scripted:
    """An edge that does only what the test says."""

    def __init__(self, site: Site, node: str, *own: str) -> None:
        self.site, self.own, self.seq = site, own, 0
        self.bus = site.bus(node)
        self.bus.start()
        assert self.bus.wait_connected(10)

    def beat(self) -> None:
        self.seq += 1
        beat = EdgeBeat(edge=self.bus.origin, seq=self.seq, at=self.site.clock.now(), pools=(POOL,), own=self.own)
        node, _, role = self.bus.origin.partition(".")
        self.bus.publish(NODE_EDGE_BEAT.at("home", node=node, role=role), beat)


def test_an_edge_alone_takes_all_that_it_may_without_any_time_passing(site: Site) -> None:
    Running(site, "one", cameras_max=3).wait_watches(3)


def test_a_second_one_listens_first_and_begins_when_the_first_has_left(site: Site) -> None:
    one = Running(site, "one")
    one.wait_watches(4)
    two = Running(site, "two")
    site.pass_time_until(lambda: len(two.watched) == 2)
    one.wait_watches(2)
    assert one.watched | two.watched == CAMERAS
    assert one.overtaken == []


def test_nobody_begins_before_the_other_has_left_unless_he_does_not_leave_at_all(site: Site) -> None:
    one = Running(site, "one")
    one.wait_watches(4)
    slow = Scripted(site, "two", "c1", "c2", "c3", "c4")
    slow.beat()
    wait_until(lambda: not one.pool.mine(), what="what another claims")
    one.tend()
    site.pass_time_until(lambda: one.pool.figures().counts["pool_cameras"] == 2, slow)
    assert one.watched == frozenset(), "they are claimed, and still named by who is to leave them"
    site.pass_time_until(lambda: len(one.watched) == 2, slow)


def test_of_one_whose_connection_broke_everything_is_taken_at_once(site: Site) -> None:
    one = Running(site, "one")
    one.wait_watches(4)
    other = Scripted(site, "other", "c1", "c2")
    other.beat()
    one.wait_watches(2)
    site.pass_time(4, other)
    say(other.bus, "offline")
    one.wait_watches(4)


def test_what_a_frozen_one_had_is_taken_after_a_while(site: Site) -> None:
    one = Running(site, "one")
    one.wait_watches(4)
    other = Scripted(site, "other", "c1", "c2")
    other.beat()
    one.wait_watches(2)
    site.pass_time(4, other)
    site.pass_time(2)
    assert len(one.watched) == 2
    site.pass_time_until(lambda: len(one.watched) == 4)
    assert one.overtaken == []


def test_one_that_stood_still_is_told_that_others_speak_for_what_it_had(site: Site) -> None:
    one = Running(site, "one")
    one.wait_watches(4)
    other = Scripted(site, "other", "c1")
    with getattr(one.pool, "_lock"):  # noqa: B009 - as if its process were stopped
        site.clock.advance(10)
        other.beat()
        wait_until(lambda: "other.edge" in site.beats, what="a claim")
    wait_until(lambda: one.overtaken == ["c1"], what="what was taken meanwhile")
    one.wait_watches(3)


def test_one_that_ends_gives_away_first(site: Site) -> None:
    one, two = Running(site, "one"), Running(site, "two")
    site.pass_time_until(lambda: len(one.watched) == len(two.watched) == 2)
    stopping = threading.Thread(target=one.pool.drain, args=(1000,), daemon=True)
    stopping.start()
    site.pass_time_until(lambda: not stopping.is_alive())
    two.wait_watches(4)
    assert one.watched == frozenset()


def test_one_that_the_site_drains_has_none_until_it_is_to_go_on(site: Site) -> None:
    one, two = Running(site, "one"), Running(site, "two")
    site.pass_time_until(lambda: len(one.watched) == len(two.watched) == 2)
    one.pool.offer((POOL,), dict.fromkeys(CAMERAS, POOL), drained=True)
    site.pass_time_until(lambda: two.watched == CAMERAS)
    assert one.watched == frozenset()
    one.pool.offer((POOL,), dict.fromkeys(CAMERAS, POOL))
    site.pass_time_until(lambda: len(one.watched) == len(two.watched) == 2)


def test_what_the_site_takes_out_of_the_pool_is_left_at_once(site: Site) -> None:
    one = Running(site, "one")
    one.wait_watches(4)
    one.pool.offer((POOL,), {"c1": POOL})
    one.wait_watches(1)
    one.pool.offer((), {})
    one.wait_watches(0)
