"""Which cameras of its pools this node watches: the nodes of a pool share them out, and nobody tells them how.

Every edge hears everybody's beats and computes the same shares (:mod:`edge.sharing`). A camera changes hands in three
steps: whoever is to have it claims it in a beat; whoever has it hears that, leaves it, and names it no more; then the
new one begins, so that what the old one still says of the camera is said before. Of an edge that is gone, or silent for
:data:`broker.peers.BEAT_LOST_S`, nobody waits for that.

An edge without a broker keeps what it has: when the broker is away nobody could take anything over, and what is
recorded meanwhile is worth more than the second look of a node that only thinks itself alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from broker import Bus, Delivery, Figures
from broker.heartbeat import Heartbeat
from broker.messages import EdgeBeat, NodeStatus
from broker.peers import BEAT_INTERVAL_S, Peer, Peers
from broker.topics import NODE_EDGE_BEAT, NODE_STATUS, origin_of
from config import Clock, Supervised, get_logger
from edge.sharing import Taker, share_out

__all__ = ["EdgePeer", "Edges", "PoolShare"]

_TICK_S = 0.25
"""How soon silence is noticed once it is long enough."""
_LISTEN_S = 2.25 * BEAT_INTERVAL_S
"""How long a new connection is listened to before anything is claimed, where there are other edges: two beats."""
_HANDOVER_S = 2.0
"""Whoever has not left a camera so long after it was claimed does not leave it by itself."""
_DISPUTE_S = 6.0
"""A camera that another goes on to name, longer than leaving one can take, may as well be his."""
_AGAIN_S = 2.0
"""A camera that another edge took is not claimed again for so long: two that see different facts would take it from
each other as fast as the broker can."""


@dataclass(slots=True)
class EdgePeer(Peer):
    """What is known of one edge.

    Attributes:
        beat: the last one; None while there was none.
    """

    beat: EdgeBeat | None = None

    @property
    def takes_part(self) -> bool:
        """Whether cameras are shared with it."""
        return self.beat is not None and bool(self.beat.pools or self.beat.own)

    @property
    def own(self) -> frozenset[str]:
        """The cameras that it names as its own."""
        return frozenset[str]() if self.beat is None else frozenset(self.beat.own)


@dataclass(slots=True)
class Edges(Peers[EdgePeer]):
    """The edges of one site, as one of them sees them. No I/O and no clock."""

    def _new_peer(self, now_s: float) -> EdgePeer:
        return EdgePeer(now_s)

    def fold(self, delivery: Delivery, now_s: float) -> frozenset[str]:
        """Take one message in.

        Returns:
            The cameras that another edge names, and did not name before.
        """
        params = delivery.topic.params
        if params["role"].partition(".")[0] != "edge":
            return frozenset()
        origin = origin_of(params["node"], params["role"])
        peer = self._peer(origin, now_s)
        if peer is None:
            return frozenset()
        match delivery.content:
            case NodeStatus() as status:
                self._fold_node(origin, peer, status, delivery, now_s)
            case EdgeBeat() as beat:
                known = peer.own  # also of one that was silent: it does not claim anew what it had
                peer.beat = beat
                peer.shows_life(now_s)
                if origin != self.me:
                    return peer.own - known
        return frozenset()

    @property
    def is_alone(self) -> bool:
        """Whether there is nobody to share with, or to wait for."""
        expected = (name for name, peer in self.peers.items() if peer.beat is None and not peer.away)
        return not self.others() and not any(name != self.me for name in expected)

    def takers(self) -> dict[str, Taker]:
        """The others that live and take cameras on; one that drains does not."""
        found = {name: self.peers[name].beat for name in self.others()}
        return {
            name: Taker(frozenset(beat.pools), frozenset(beat.own), beat.cameras_max)
            for name, beat in found.items()
            if beat is not None and beat.state == "online"
        }

    def named_by_others(self) -> frozenset[str]:
        """Cameras that another that lives names as its own."""
        return frozenset(camera for name in self.others() for camera in self.peers[name].own)


class PoolShare:
    """Takes the cameras that fall to this edge, and gives up those that others take.

    Concurrency: `start`, `offer`, `mine` and `watches` belong to the node's thread, `drain` and `close` to whoever ends
    it; what the bus delivers comes on the bus's thread.

    Args:
        bus: the site's.
        clock: time.
        on_overtaken: called on the bus's thread with a camera that another edge has taken because this one stood still:
            it speaks for the camera already. Must be short.
        cameras_max: the most cameras to take on; 0: as many as fall to it.
    """

    def __init__(self, bus: Bus, *, clock: Clock, on_overtaken: Callable[[str], None], cameras_max: int = 0) -> None:
        self._bus = bus
        self._on_overtaken = on_overtaken
        self._clock = clock
        self._cameras_max = cameras_max
        self._log = get_logger()
        node, _, role = bus.origin.partition(".")
        self._place = {"node": node, "role": role}
        self._lock = threading.RLock()
        self._given = threading.Condition(self._lock)
        self._edges = Edges(bus.origin)
        self._heartbeat = Heartbeat(self._edges)
        self._pools: tuple[str, ...] = ()
        self._cameras: dict[str, str] = {}
        self._own: dict[str, float] = {}
        self._held = frozenset[str]()
        self._claimed: dict[str, int] = {}
        self._taken_s: dict[str, float] = {}
        self._contested_s: dict[str, float] = {}
        self._roomless = frozenset[str]()
        self._gained = self._lost = 0
        self._state: Literal["online", "draining"] = "online"
        self._report_s = float("-inf")
        self._is_started = self._is_leaving = False
        self._stop = threading.Event()
        self._thread = Supervised("pool", self._tick, stop=self._stop, clock=clock)

    # --- for the node ------------------------------------------------------------------------------------------------

    def offer(self, pools: Collection[str], cameras: Mapping[str, str], *, drained: bool = False) -> None:
        """Say which cameras there are to share; a node that was never in a pool costs nobody anything.

        Args:
            pools: in which this node takes part.
            cameras: the pool of each camera of these pools.
            drained: it is to have none for now.
        """
        with self._lock:
            before = (self._pools, self._cameras, self._state)
            self._pools, self._cameras = tuple(sorted(pools)), dict(cameras)
            self._state = "draining" if drained or self._is_leaving else "online"
            for camera in [name for name in self._own if name not in self._cameras]:
                self._lose(camera, "withdrawn")
            begins = bool(self._pools) and not self._is_started
            if self._is_started and before != (self._pools, self._cameras, self._state):
                self._beat()
            self._is_started = self._is_started or begins
        if begins:
            self._bus.subscribe(NODE_STATUS, self._on_fact)
            self._bus.subscribe(NODE_EDGE_BEAT, self._on_fact)
            self._thread.start()

    def mine(self) -> frozenset[str]:
        """The cameras that are to be watched here now: those that are ours, and that nobody else still leaves."""
        with self._lock:
            now_s, named = self._clock.monotonic_s(), self._edges.named_by_others()
            return frozenset(
                camera
                for camera, since_s in self._own.items()
                if camera in self._held or camera not in named or now_s - since_s > _HANDOVER_S
            )

    def watches(self, cameras: Collection[str]) -> None:
        """Say which cameras of pools are watched here now."""
        with self._given:
            before, self._held = self._held, frozenset(cameras)
            if before - self._held and self._is_started:
                self._beat()  # who waits for one may begin
            self._given.notify_all()

    def drain(self, timeout_s: float) -> None:
        """Take nothing more, and go on until others have what they have room for, or the time is over."""
        with self._given:
            self._is_leaving, self._state = True, "draining"
            if not self._is_started or not self._bus.connected or not self._edges.takers():
                return
            self._beat()
            self._given.wait_for(lambda: not self._own and not self._held, timeout_s)

    def close(self) -> None:
        """Say nothing more; the goodbye is that of the process."""
        self._stop.set()
        if self._is_started:
            self._thread.join(1.0)

    def figures(self) -> Figures:
        """What it has, and how often that changed."""
        with self._lock:
            if not self._is_started:
                return Figures()
            return Figures(
                queues={"pool_cameras_roomless": len(self._roomless)},
                counts={
                    "pool_cameras": len(self._own),
                    "pool_cameras_gained": self._gained,
                    "pool_cameras_lost": self._lost,
                    "bus_doubts": self._edges.doubts,
                },
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
        for camera in self._claimed:
            self._claimed[camera] = self._claimed[camera] or seq
        beat = EdgeBeat(
            edge=self._bus.origin,
            seq=seq,
            at=self._clock.now(),
            pools=self._pools,
            state=self._state,
            own=tuple(sorted(self._held.union(self._own, self._claimed))),
            cameras_max=self._cameras_max,
        )
        self._bus.publish(NODE_EDGE_BEAT.at(self._bus.site, **self._place), beat)

    # --- facts and decisions, on the bus's thread --------------------------------------------------------------------

    def _on_fact(self, delivery: Delivery) -> None:
        with self._lock:
            now_s = self._clock.monotonic_s()
            if self._heartbeat.notice(self._bus.connections, now_s):
                self._claimed.clear()  # those beats are lost
                self._beat()
            before = self._edges.takers()
            for camera in self._edges.fold(delivery, now_s).intersection(self._own):
                self._taken_s[camera] = now_s
                self._lose(camera, "taken")
                if not self._heartbeat.is_leased(now_s):
                    self._on_overtaken(camera)
            beat = delivery.content
            if isinstance(beat, EdgeBeat) and beat.edge == self._bus.origin:
                self._on_echo(beat, now_s)
            elif before.keys() != self._edges.takers().keys() and self._heartbeat.is_answered:
                self._beat()  # else the answer that is on its way comes after this fact, and decides

    def _on_echo(self, beat: EdgeBeat, now_s: float) -> None:
        silent = self._heartbeat.answer(beat.seq, now_s)
        if silent is None:
            return
        for name in silent:
            self._log.warning("edge.peer_silent", edge=name)
        for camera in [camera for camera, seq in self._claimed.items() if seq and seq <= beat.seq]:
            del self._claimed[camera]
            self._gain(camera, now_s)
        if self._heartbeat.settle(now_s, 0.0 if self._edges.is_alone else _LISTEN_S):
            self._decide(now_s)

    def _decide(self, now_s: float) -> None:
        contested = self._edges.named_by_others().intersection(self._own)
        self._contested_s = {camera: self._contested_s.get(camera, now_s) for camera in contested}
        disputed = {camera for camera, since_s in self._contested_s.items() if now_s - since_s > _DISPUTE_S}
        owners = self._wanted(disputed)
        mine = {camera for camera, name in owners.items() if name == self._bus.origin}
        for camera in disputed - mine:
            self._lose(camera, "disputed")
        for camera in set(self._claimed) - mine:
            del self._claimed[camera]
        free = mine.difference(self._own, self._claimed)
        new = [camera for camera in free if self._may_claim(camera, now_s)]
        if new:
            self._claimed.update(dict.fromkeys(new, 0))
            self._beat()
        self._tell_roomless(frozenset(self._cameras).difference(owners, self._own))

    def _wanted(self, disputed: Collection[str]) -> dict[str, str]:
        """Who is to have which camera, by what is known now; one that drains is to have none."""
        ours = frozenset(self._own).union(self._claimed)
        undisputed = ours.difference(disputed)
        edges = {
            name: Taker(taker.pools, taker.own - undisputed, taker.cameras_max)
            for name, taker in self._edges.takers().items()
        }
        if self._state == "online":
            edges[self._bus.origin] = Taker(frozenset(self._pools), ours, self._cameras_max)
        return share_out(self._cameras, edges)

    def _may_claim(self, camera: str, now_s: float) -> bool:
        # Of one that is gone or leaves anything may be taken.
        is_rival = any(camera in taker.own for taker in self._edges.takers().values())
        return not is_rival or now_s >= self._taken_s.get(camera, float("-inf")) + _AGAIN_S

    def _gain(self, camera: str, now_s: float) -> None:
        self._own[camera] = now_s
        self._gained += 1
        self._log.info("edge.pool_camera_gained", camera=camera)

    def _lose(self, camera: str, reason: str) -> None:
        if self._own.pop(camera, None) is None:
            return
        self._lost += 1
        self._log.info("edge.pool_camera_lost", camera=camera, reason=reason)
        self._given.notify_all()

    def _tell_roomless(self, cameras: frozenset[str]) -> None:
        for camera in sorted(cameras - self._roomless):
            self._log.warning("edge.pool_full", camera=camera, pool=self._cameras[camera])
        self._roomless = cameras
