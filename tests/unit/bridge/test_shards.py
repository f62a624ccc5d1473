"""Who has which shard: by the pure rule, and by bridges on one bus whose clock stands still until it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from bridge.shards import Shards, shard_of, split
from broker import Bus, Delivery
from broker.memory import MemoryBroker
from broker.messages import BridgeBeat, NodeStatus
from broker.topics import NODE_BRIDGE_BEAT, NODE_STATUS
from tests.support.clocks import HeldClock
from tests.support.messages import AT
from tests.support.waiting import wait_until

SHARDS = 6
SINK = "kafka c1 vigil.escalations"
NAMES = [f"node-{number}.bridge" for number in range(7)]
_STEPS_MAX = 50


def settled(names: list[str], shards: int) -> dict[str, set[int]]:
    """What each has, of bridges that have just begun."""
    return _by_bridge(names, split(dict.fromkeys(names, ()), shards))


def _by_bridge(names: list[str], owners: dict[int, str]) -> dict[str, set[int]]:
    return {name: {shard for shard, owner in owners.items() if owner == name} for name in names}


some_bridges = st.lists(st.sampled_from(NAMES), unique=True, min_size=1)
shard_counts = st.integers(1, 64)


@given(names=some_bridges, shards=shard_counts, claims=st.data())
def test_every_shard_has_one_owner_and_all_have_as_many(names: list[str], shards: int, claims: st.DataObject) -> None:
    own = {name: claims.draw(st.sets(st.integers(0, shards - 1))) for name in names}
    owners = split(own, shards)
    assert sorted(owners) == list(range(shards))
    sizes = [len(some) for some in _by_bridge(names, owners).values()]
    assert max(sizes) - min(sizes) <= 1
    assert split(dict(reversed(own.items())), shards) == owners


@given(names=some_bridges, shards=shard_counts)
def test_what_was_split_stays_so(names: list[str], shards: int) -> None:
    own = settled(names, shards)
    assert _by_bridge(names, split(own, shards)) == own


@given(names=some_bridges, shards=shard_counts, victim=st.data())
def test_losing_one_moves_only_its_share(names: list[str], shards: int, victim: st.DataObject) -> None:
    own = settled(names, shards)
    own.pop(victim.draw(st.sampled_from(names)))
    if own:
        after = _by_bridge(list(own), split(own, shards))
        assert all(own[name] <= after[name] for name in own)


@given(names=some_bridges, shards=shard_counts)
def test_a_new_one_gets_its_share_and_nothing_else_moves(names: list[str], shards: int) -> None:
    own = settled(names, shards)
    after = _by_bridge([*names, "new.bridge"], split({**own, "new.bridge": set()}, shards))
    assert all(after[name] <= own[name] for name in names)


def test_nobody_has_anything_where_nobody_is() -> None:
    assert split({}, 4) == {}


def test_a_camera_stays_in_its_shard_in_every_release() -> None:
    assert [shard_of(camera, 16) for camera in ("yard", "door", "hall")] == [8, 1, 7]
    assert {shard_of(f"camera-{number}", 4) for number in range(50)} == {0, 1, 2, 3}
    assert shard_of("yard", 1) == 0


class Site:
    """A broker and whoever listens."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.clock = HeldClock(AT)
        self.beats: dict[str, BridgeBeat] = {}
        self.buses: list[Bus] = []
        self.running: list[Running] = []
        self.watcher = self.bus("watcher", "edge")
        self.watcher.subscribe(NODE_BRIDGE_BEAT, self._on_beat)
        self.watcher.start()
        assert self.watcher.wait_connected(10)

    def bus(self, node: str, role: str = "bridge") -> Bus:
        gone = NodeStatus(node=node, role=role, state="offline", at=AT, started_at=AT)
        will = (NODE_STATUS.at("home", node=node, role=role), gone)
        bus = Bus(site="home", origin=f"{node}.{role}", transports=self.broker.transports(node), will=will)
        self.buses.append(bus)
        return bus

    def _on_beat(self, delivery: Delivery) -> None:
        if isinstance(delivery.content, BridgeBeat):
            self.beats[delivery.content.bridge] = delivery.content

    def pass_time(self, seconds: int, *living: Scripted) -> None:
        """Second by second, with everybody's beats."""
        for _ in range(seconds):
            self.clock.advance(1.0)
            for scripted in living:
                scripted.beat()
            now = self.clock.now()
            for bridge in self.running:
                wait_until(lambda b=bridge, n=now: self.beats[b.origin].at >= n, what="a beat")  # type: ignore[misc]

    def pass_time_until(self, condition: Callable[[], object]) -> None:
        for _ in range(_STEPS_MAX):
            if condition():
                return
            self.pass_time(1)
        raise AssertionError("it does not come with time")

    def close(self) -> None:
        for bridge in self.running:
            bridge.shards.close()
        for bus in self.buses:
            bus.close(0)


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


class Running:
    """The shards of one bridge, and what it was told."""

    def __init__(self, site: Site, node: str, *, shards: int = SHARDS, sink: str | None = SINK) -> None:
        self.site, self.origin = site, f"{node}.bridge"
        self.bus = site.bus(node)
        self.told: list[tuple[str, int]] = []
        self.shards = Shards(self.bus, sink=sink, shards=shards, clock=site.clock)
        site.running.append(self)
        self.shards.start(self._on_gain, self._on_lose)
        status = NodeStatus(node=node, role="bridge", state="online", at=AT, started_at=AT)
        self.bus.publish(NODE_STATUS.at("home", node=node, role="bridge"), status)
        self.bus.start()
        wait_until(lambda: self.origin in site.beats, what="its first beat")

    def _on_gain(self, shard: int) -> None:
        self.told.append(("gain", shard))

    def _on_lose(self, shard: int) -> None:
        self.told.append(("lose", shard))

    @property
    def own(self) -> frozenset[int]:
        return self.shards.own

    def serves(self) -> frozenset[int]:
        cameras = [f"camera-{number}" for number in range(100)]
        return frozenset(shard_of(camera, SHARDS) for camera in cameras if self.shards.serves(camera))

    def wait_owns(self, shards: int) -> None:
        wait_until(lambda: len(self.own) == shards, what=f"{shards} shards, not {sorted(self.own)}")


class Scripted:
    """A bridge that does only what the test says."""

    def __init__(self, site: Site, node: str, own: set[int], *, shards: int = SHARDS) -> None:
        self.site, self.place, self.own, self.shards = site, {"node": node, "role": "bridge"}, own, shards
        self.seq = 0
        self.bus = site.bus(node)
        self.bus.start()
        assert self.bus.wait_connected(10)

    def beat(self) -> None:
        self.seq += 1
        beat = BridgeBeat(
            bridge=self.bus.origin, seq=self.seq, at=self.site.clock.now(), sink=SINK, shards=self.shards,
            own=tuple(sorted(self.own)),
        )  # fmt: skip
        self.bus.publish(NODE_BRIDGE_BEAT.at("home", **self.place), beat)

    def die(self) -> None:
        self.bus.close(0)
        gone = NodeStatus(node=self.place["node"], role="bridge", state="offline", at=AT, started_at=AT)
        self.site.watcher.publish(NODE_STATUS.at("home", **self.place), gone)


ALL = frozenset(range(SHARDS))


def test_a_bridge_alone_takes_everything_without_any_time_passing(site: Site) -> None:
    one = Running(site, "one")
    one.wait_owns(SHARDS)
    assert sorted(one.told) == [("gain", shard) for shard in range(SHARDS)]
    assert one.serves() == ALL
    assert one.shards.figures().counts["shards_owned"] == SHARDS


def test_a_second_bridge_listens_first_and_then_takes_its_share(site: Site) -> None:
    one = Running(site, "one")
    one.wait_owns(SHARDS)
    two = Running(site, "two")
    site.pass_time(1)
    assert not two.own
    site.pass_time_until(lambda: len(two.own) == 3)
    one.wait_owns(3)
    assert one.own | two.own == ALL
    assert (one.serves(), two.serves()) == (one.own, two.own)


def test_the_shards_of_a_bridge_whose_connection_broke_are_taken_at_once(site: Site) -> None:
    one = Running(site, "one")
    one.wait_owns(SHARDS)
    other = Scripted(site, "other", {0, 1, 2})
    other.beat()
    one.wait_owns(3)
    site.pass_time(5, other)
    assert one.own == {3, 4, 5}
    other.die()
    one.wait_owns(SHARDS)


def test_the_shards_of_a_frozen_bridge_are_taken_after_a_while_and_stay_when_it_wakes_up(site: Site) -> None:
    one = Running(site, "one")
    one.wait_owns(SHARDS)
    frozen = Scripted(site, "frozen", {0, 1, 2})
    frozen.beat()
    one.wait_owns(3)
    site.pass_time(5, frozen)
    site.pass_time(2)
    assert len(one.own) == 3
    site.pass_time_until(lambda: one.own == ALL)
    site.pass_time(1, frozen)  # it has not heard yet that its shards are another's
    assert one.own == ALL


def test_when_all_others_fall_silent_nobody_takes_their_shards(site: Site) -> None:
    one = Running(site, "one")
    one.wait_owns(SHARDS)
    two, three = Scripted(site, "two", {0, 1}), Scripted(site, "three", {2, 3})
    two.beat()
    three.beat()
    one.wait_owns(2)
    site.pass_time(3, two, three)
    site.pass_time(10)
    assert one.own == {4, 5}
    assert one.shards.figures().counts["bus_doubts"] == 1


def test_a_bridge_whose_own_beats_do_not_come_back_writes_nothing_where_others_are(site: Site) -> None:
    one = Running(site, "one")
    one.wait_owns(SHARDS)
    other = Scripted(site, "other", {0, 1, 2})
    other.beat()
    one.wait_owns(3)
    wait_until(lambda: one.serves() == {3, 4, 5}, what="its lease")
    site.broker.stop()
    site.clock.advance(3.5)
    assert one.serves() == set()
    assert one.own == {3, 4, 5}
    site.broker.start()
    wait_until(lambda: one.serves() == {3, 4, 5}, what="its lease again")


def test_a_restart_of_the_broker_moves_nothing(site: Site) -> None:
    one = Running(site, "one")
    one.wait_owns(SHARDS)
    two = Running(site, "two")
    site.pass_time_until(lambda: len(one.own) == len(two.own) == 3)
    before = (one.own, two.own)
    connections = site.watcher.connections
    site.broker.stop()
    site.broker.forget()
    site.broker.start()
    wait_until(lambda: site.watcher.connections > connections, what="the watcher's connection")
    site.pass_time(15)
    assert (one.own, two.own) == before


def test_a_planned_stop_hands_everything_over_before_it_ends(site: Site) -> None:
    one = Running(site, "one")
    one.wait_owns(SHARDS)
    two = Running(site, "two")
    site.pass_time_until(lambda: len(two.own) == 3)
    stopping = threading.Thread(target=one.shards.drain, args=(1000,), daemon=True)
    stopping.start()
    site.pass_time_until(lambda: not stopping.is_alive())
    assert (one.own, two.own) == (frozenset(), ALL)


def test_a_planned_stop_of_the_only_bridge_waits_for_nobody(site: Site) -> None:
    one = Running(site, "one")
    one.wait_owns(SHARDS)
    one.shards.drain(1000)
    assert one.own == ALL


def test_what_another_has_beyond_its_share_is_taken_from_it(site: Site) -> None:
    one = Running(site, "one")
    one.wait_owns(SHARDS)
    other = Scripted(site, "other", {0, 1, 2, 3, 4, 5})
    other.beat()
    one.wait_owns(0)
    for _ in range(8):
        site.pass_time(1, other)
        other.own -= one.own  # it hears our claim
    assert len(one.own) == 3


@pytest.mark.parametrize(("other", "kept"), [("another", set()), ("zoe", {0})])
def test_two_that_go_on_to_claim_the_same_shards_do_not_both_keep_them(site: Site, other: str, kept: set[int]) -> None:
    one = Running(site, "one")
    one.wait_owns(SHARDS)
    deaf = Scripted(site, other, {0, 1, 2})
    deaf.beat()
    one.wait_owns(3)
    site.pass_time_until(lambda: one.own == ALL)  # it is silent, and comes back without having heard of us
    site.pass_time(6, deaf)
    assert one.own == kept | {3, 4, 5}  # the first by name has them; of those it keeps its share


def test_a_shard_that_another_writes_is_not_claimed_again_before_its_time(site: Site) -> None:
    one = Running(site, "one")
    one.wait_owns(SHARDS)
    one.shards.yield_shard(2, 5.0)
    assert one.told[-1] == ("lose", 2)
    site.pass_time(4)
    assert 2 not in one.own
    site.pass_time_until(lambda: 2 in one.own)


def test_another_number_of_shards_is_told_once_and_takes_nothing_from_us(site: Site) -> None:
    one = Running(site, "one")
    one.wait_owns(SHARDS)
    other = Scripted(site, "other", {0, 1}, shards=2)
    with capture_logs() as logs:
        site.pass_time(4, other)
    told = [line for line in logs if line["event"] == "bridge.shards_differ"]
    assert [(line["bridge"], line["theirs"], line["ours"]) for line in told] == [("other.bridge", 2, SHARDS)]
    assert one.own == ALL


def test_a_journal_is_nobody_elses(site: Site) -> None:
    one = Running(site, "one", sink=None)
    other = Scripted(site, "other", {0, 1, 2})
    birth = NodeStatus(node="third", role="bridge.2", state="online", at=AT, started_at=AT)
    site.watcher.publish(NODE_STATUS.at("home", node="third", role="bridge.2"), birth)
    site.pass_time(4, other)
    assert one.serves() == ALL
    assert one.own == ALL
    one.shards.drain(1000)


def test_the_only_shard_is_served_before_anything_is_known(site: Site) -> None:
    bus = site.bus("one")
    shards = Shards(bus, sink=SINK, shards=1, clock=site.clock)
    assert shards.serves("yard")
    assert not Shards(bus, sink=SINK, shards=2, clock=site.clock).serves("yard")


def test_the_only_shard_is_left_to_who_has_it(site: Site) -> None:
    one = Running(site, "one", shards=1)
    one.wait_owns(1)
    two = Running(site, "two", shards=1)
    site.pass_time(5)
    assert (one.shards.serves("yard"), two.shards.serves("yard")) == (True, False)
    one.shards.close()
    site.running.remove(one)
    one.bus.close(0)
    gone = NodeStatus(node="one", role="bridge", state="offline", at=AT, started_at=AT)
    site.watcher.publish(NODE_STATUS.at("home", node="one", role="bridge"), gone)
    two.wait_owns(1)
    assert two.shards.serves("yard")
