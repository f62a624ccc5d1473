"""Which cameras are this bridge's, where several bridges share one Kafka.

The cameras are split into a fixed number of shards, and the shards among the bridges that live. Every bridge hears
everything: what is of another's shard it acknowledges and forgets, since its sender sends it again until somebody's
receipt comes. So two bridges that see different facts for a moment lose nothing; they may both write something, or
neither until it is sent again.

A bridge has a shard from the moment at which its beat that claims it comes back, and no more once it hears another's
that claims it: the broker sends both the same, so a shard changes hands at one point of what it sends.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from broker import Bus, Delivery, Figures
from broker.assignment import Demand, Worker, assign
from broker.heartbeat import Heartbeat
from broker.messages import BridgeBeat, NodeStatus
from broker.peers import BEAT_INTERVAL_S, Peer, Peers
from broker.topics import NODE_BRIDGE_BEAT, NODE_STATUS, origin_of
from config import Clock, Supervised, SystemClock, get_logger

__all__ = ["BridgePeer", "Bridges", "Shards", "shard_of", "split"]

_CAMERAS_KEPT = 4_096
_TICK_S = 0.25
"""How soon silence is noticed once it is long enough."""
_LISTEN_S = 2.25 * BEAT_INTERVAL_S
"""How long a new connection is listened to before anything is claimed, where there are other bridges: two beats."""
_DISPUTE_S = 2.5 * BEAT_INTERVAL_S
"""A shard that another says is its own, and took from us in no beat that we heard, is ours for so long: one that was
frozen goes on to say so until it has heard of us."""
_AGAIN_S = 2.0
"""A shard that another bridge took is not claimed again for so long: two that see different facts would take it from
each other as fast as the broker can."""


@lru_cache(maxsize=_CAMERAS_KEPT)
def shard_of(camera: str, shards: int) -> int:
    """The shard of a camera, from 0: the same in every process and release.

    Args:
        camera: its name.
        shards: how many there are.
    """
    return int.from_bytes(hashlib.blake2b(camera.encode(), digest_size=8).digest()) % shards


def split(bridges: Mapping[str, Collection[int]], shards: int) -> dict[int, str]:
    """Who is to have which shard: as many each, and who has one keeps it as far as that goes.

    Losing a bridge moves what it had and nothing else; a new one gets its part, and nothing else moves.

    Args:
        bridges: those that take shards on, and what each has now.
        shards: how many there are.
    """
    if not bridges:
        return {}
    # As much room as there are shards: what has a place has no better one to go to. Who has most may have one more.
    least, more = divmod(shards, len(bridges))
    ranked = sorted(bridges, key=lambda name: (-len(bridges[name]), name))
    workers = [Worker(name, least + (place < more)) for place, name in enumerate(ranked)]
    owners = {shard: name for name in sorted(bridges, reverse=True) for shard in bridges[name]}
    demands = [Demand(str(shard), 1.0, owner=owners.get(shard, "")) for shard in range(shards)]
    return {int(shard): name for shard, name in assign(workers, demands).owners.items()}


@dataclass(slots=True)
class BridgePeer(Peer):
    """What is known of one bridge.

    Attributes:
        beat: the last one; None while there was none.
        is_ours: whether it writes where we write, and splits the cameras as we do.
    """

    beat: BridgeBeat | None = None
    is_ours: bool = False

    @property
    def takes_part(self) -> bool:
        """Whether shards are shared with it."""
        return self.beat is not None and self.is_ours

    @property
    def own(self) -> tuple[int, ...]:
        """The shards that it says it has."""
        return () if self.beat is None else self.beat.own


@dataclass(slots=True)
class Bridges(Peers[BridgePeer]):
    """The bridges of one site, as one of them sees them. No I/O and no clock.

    Attributes:
        sink: where we write; empty for an onlooker, to whom all are its own.
        shards: into how many we split the cameras.
        strangers: bridges that write where we write, and split the cameras into another number of shards.
    """

    sink: str = ""
    shards: int = 1
    strangers: dict[str, int] = field(default_factory=dict)

    def _new_peer(self, now_s: float) -> BridgePeer:
        return BridgePeer(now_s)

    def fold(self, delivery: Delivery, now_s: float) -> frozenset[int]:
        """Take one message in.

        Returns:
            The shards that another bridge says are its own, and did not say so before.
        """
        params = delivery.topic.params
        if params["role"].partition(".")[0] != "bridge":
            return frozenset()
        origin = origin_of(params["node"], params["role"])
        peer = self._peer(origin, now_s)
        if peer is None:
            return frozenset()
        match delivery.content:
            case NodeStatus() as status:
                self._fold_node(origin, peer, status, delivery, now_s)
            case BridgeBeat() as beat:
                known = peer.own  # also of one that was silent: it does not claim anew what it had
                self._fold_beat(origin, peer, beat)
                peer.shows_life(now_s)
                if peer.is_ours and origin != self.me:
                    return frozenset(beat.own).difference(known)
        return frozenset()

    def is_expected(self, name: str) -> bool:
        """Whether a bridge says that it is there, and has not said yet what it does."""
        peer = self.peers[name]
        return name != self.me and peer.beat is None and not peer.away

    @property
    def is_alone(self) -> bool:
        """Whether there is nobody to share with, or to wait for."""
        return not self.others() and not any(self.is_expected(name) for name in list(self.peers))

    def takers(self) -> list[str]:
        """The others that live and take shards on, sorted; one that drains does not."""
        return [name for name in self.others() if (beat := self.peers[name].beat) and beat.state == "online"]

    def claimed_by_others(self) -> frozenset[int]:
        """Shards that another that lives says are its own."""
        return frozenset(shard for name in self.others() for shard in self.peers[name].own)

    def wanted(self, own: Collection[int], disputed: Collection[int] = ()) -> dict[int, str]:
        """Who is to have which shard, by what is known now; one that drains is to have none.

        Args:
            own: what we have ourselves.
            disputed: what of it may as well be another's that says so.
        """
        undisputed = frozenset(own).difference(disputed)
        there: dict[str, Collection[int]] = {
            name: frozenset(self.peers[name].own).difference(undisputed) for name in self.takers()
        }
        mine = self.peers.get(self.me)
        if mine is None or mine.beat is None or mine.beat.state == "online":
            there[self.me] = own
        return split(there, self.shards)

    def _fold_beat(self, origin: str, peer: BridgePeer, beat: BridgeBeat) -> None:
        peer.beat = beat
        is_same_sink = not self.sink or beat.sink == self.sink
        peer.is_ours = is_same_sink and (not self.sink or beat.shards == self.shards)
        if is_same_sink and not peer.is_ours:
            self.strangers[origin] = beat.shards
        else:
            self.strangers.pop(origin, None)


def _ignore(_shard: int) -> None:
    """Where nothing depends on it."""


class Shards:
    """Takes the shards that fall to this bridge, and gives up those that others take.

    Concurrency: `serves` may be called from any thread, and is quick. The callbacks are called on the bus's thread and
    must be short; `start`, `drain` and `close` belong to one thread.

    Args:
        bus: started after `start`.
        sink: what the bridges share that write there; None where this one shares nothing: it serves every camera.
        shards: into how many the cameras are split.
        clock: time.
    """

    def __init__(self, bus: Bus, *, sink: str | None, shards: int, clock: Clock | None = None) -> None:
        self._bus = bus
        self._shards = shards
        self._is_shared = sink is not None
        self._clock: Clock = clock or SystemClock()
        self._log = get_logger(origin=bus.origin)
        node, _, role = bus.origin.partition(".")
        self._place = {"node": node, "role": role}
        self._sink = sink or f"journal {bus.origin}"
        self._lock = threading.RLock()
        self._given = threading.Condition(self._lock)
        self._bridges = Bridges(bus.origin, sink=self._sink, shards=shards)
        self._heartbeat = Heartbeat(self._bridges)
        self._own = frozenset[int]() if self._is_shared else frozenset(range(shards))
        self._claimed: dict[int, int] = {}
        self._taken_s: dict[int, float] = {}
        self._fenced_until_s: dict[int, float] = {}
        self._contested_s: dict[int, float] = {}
        self._is_alone = True
        self._gained = self._lost = 0
        self._told: dict[str, int] = {}
        self._on_gain: Callable[[int], None] = _ignore
        self._on_lose: Callable[[int], None] = _ignore
        self._state: Literal["online", "draining"] = "online"
        self._report_s = float("-inf")
        self._stop = threading.Event()
        self._thread = Supervised("shards", self._tick, stop=self._stop, clock=self._clock)

    def start(self, on_gain: Callable[[int], None] = _ignore, on_lose: Callable[[int], None] = _ignore) -> None:
        """Listen for the other bridges, and begin to say that this one is there.

        Args:
            on_gain: a shard is this bridge's from now on.
            on_lose: a shard is not this bridge's any more.
        """
        self._on_gain, self._on_lose = on_gain, on_lose
        for shard in sorted(self._own):
            on_gain(shard)
        self._bus.subscribe(NODE_STATUS, self._on_fact)
        self._bus.subscribe(NODE_BRIDGE_BEAT, self._on_fact)
        self._thread.start()

    @property
    def own(self) -> frozenset[int]:
        """The shards that are this bridge's."""
        return self._own

    def serves(self, camera: str) -> bool:
        """Whether what is of a camera is this bridge's to write."""
        # What waited in a persistent session comes before anything of other bridges does. With one shard that is the
        # session of the only bridge, most likely; with several no bridge has such a session.
        if not self._is_shared or (self._shards == 1 and self._is_alone):
            return True
        if shard_of(camera, self._shards) not in self._own:
            return False
        return self._is_alone or self._heartbeat.is_leased(self._clock.monotonic_s())

    def yield_shard(self, shard: int, pause_s: float) -> None:
        """Give a shard up, since somebody else writes it, and do not claim it again for `pause_s`."""
        with self._lock:
            self._fenced_until_s[shard] = self._clock.monotonic_s() + pause_s
            self._lose(shard, "fenced")

    def drain(self, timeout_s: float) -> None:
        """Take nothing more, and go on until others have taken what this bridge has, or the time is over."""
        with self._given:
            self._state = "draining"
            if not self._is_shared or not self._bus.connected or not self._bridges.others():
                return
            self._beat()
            self._given.wait_for(lambda: not self._own, timeout_s)
            left = sorted(self._own)
        if left:
            self._log.warning("bridge.shards_left", shards=left)

    def close(self) -> None:
        """Say nothing more; the goodbye is that of the process."""
        self._stop.set()
        self._thread.join(1.0)

    def figures(self) -> Figures:
        """What it has and how often that changed."""
        return Figures(
            counts={
                "shards": self._shards,
                "shards_owned": len(self._own),
                "shards_gained": self._gained,
                "shards_lost": self._lost,
                "bus_doubts": self._bridges.doubts,
            }
        )

    # --- beats, on a thread of their own -----------------------------------------------------------------------------

    def _tick(self) -> None:
        if not self._bus.wait_connected(_TICK_S):
            return
        with self._lock:
            now_s = self._clock.monotonic_s()
            if now_s - self._report_s >= BEAT_INTERVAL_S:
                self._report_s = now_s
                self._beat()
            elif self._heartbeat.is_due(now_s, 2 * _TICK_S):
                self._beat()
        self._clock.wait(self._stop, _TICK_S)

    def _beat(self) -> None:
        seq = self._heartbeat.next_seq(self._clock.monotonic_s())
        for shard in self._claimed:
            self._claimed[shard] = self._claimed[shard] or seq
        beat = BridgeBeat(
            bridge=self._bus.origin,
            seq=seq,
            at=self._clock.now(),
            sink=self._sink,
            shards=self._shards,
            state=self._state,
            own=tuple(sorted(self._own.union(self._claimed))),
        )
        self._bus.publish(NODE_BRIDGE_BEAT.at(self._bus.site, **self._place), beat)

    # --- facts and decisions, on the bus's thread --------------------------------------------------------------------

    def _on_fact(self, delivery: Delivery) -> None:
        with self._lock:
            now_s = self._clock.monotonic_s()
            if self._heartbeat.notice(self._bus.connections, now_s):
                self._claimed.clear()  # those beats are lost
                self._beat()
            before = self._bridges.takers()
            claimed = self._bridges.fold(delivery, now_s)
            self._tell_strangers()
            self._is_alone = self._bridges.is_alone
            if not self._is_shared:
                return
            for shard in claimed & self._own:
                self._taken_s[shard] = now_s
                self._lose(shard, "taken")
            if isinstance(delivery.content, BridgeBeat) and delivery.content.bridge == self._bus.origin:
                self._on_echo(delivery.content, now_s)
            elif before != self._bridges.takers() and self._heartbeat.is_answered:
                self._beat()  # else the answer that is on its way comes after this fact, and decides

    def _on_echo(self, beat: BridgeBeat, now_s: float) -> None:
        silent = self._heartbeat.answer(beat.seq, now_s)
        if silent is None:
            return
        for name in silent:
            self._log.warning("bridge.peer_silent", bridge=name)
        for shard in [shard for shard, seq in self._claimed.items() if seq and seq <= beat.seq]:
            del self._claimed[shard]
            self._gain(shard)
        self._is_alone = self._bridges.is_alone
        if self._heartbeat.settle(now_s, 0.0 if self._is_alone else _LISTEN_S):
            self._decide(now_s)

    def _decide(self, now_s: float) -> None:
        contested = self._own & self._bridges.claimed_by_others()
        self._contested_s = {shard: self._contested_s.get(shard, now_s) for shard in contested}
        disputed = {shard for shard, since_s in self._contested_s.items() if now_s - since_s > _DISPUTE_S}
        wanted = self._bridges.wanted(self._own.union(self._claimed), disputed)
        mine = {shard for shard, name in wanted.items() if name == self._bus.origin}
        for shard in disputed - mine:
            self._lose(shard, "disputed")
        for shard in set(self._claimed) - mine:
            del self._claimed[shard]
        free = mine - self._own - set(self._claimed)
        new = [shard for shard in free if self._may_claim(shard, now_s)]
        if new:
            self._claimed.update(dict.fromkeys(new, 0))
            self._beat()

    def _may_claim(self, shard: int, now_s: float) -> bool:
        if now_s < self._fenced_until_s.get(shard, 0.0):
            return False
        # Of one that is gone or leaves anything may be taken.
        is_rival = any(shard in self._bridges.peers[name].own for name in self._bridges.takers())
        return not is_rival or now_s >= self._taken_s.get(shard, float("-inf")) + _AGAIN_S

    def _gain(self, shard: int) -> None:
        self._own |= {shard}
        self._gained += 1
        self._log.info("bridge.shard_gained", shard=shard)
        self._on_gain(shard)

    def _lose(self, shard: int, reason: str) -> None:
        if shard not in self._own:
            return
        self._own -= {shard}
        self._lost += 1
        self._log.info("bridge.shard_lost", shard=shard, reason=reason)
        self._on_lose(shard)
        self._given.notify_all()

    def _tell_strangers(self) -> None:
        for name, shards in self._bridges.strangers.items():
            if self._told.get(name) != shards:
                self._told[name] = shards
                self._log.error("bridge.shards_differ", bridge=name, theirs=shards, ours=self._shards)
