"""The pool of workers as the bus tells of it: who is there, what is to be done, and who has what.

No I/O and no clock: deliveries and times come in. Workers decide by it, and people read it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from broker.assignment import Demand, Worker
from broker.intake import Delivery
from broker.messages import CameraOwner, CameraState, NodeStatus, WorkerBeat, WorkerStatus
from broker.topics import CAMERA_OWNER, CAMERA_STATE, NODE_STATUS, NODE_WORKER, NODE_WORKER_BEAT, origin_of

__all__ = ["BEAT_INTERVAL_S", "BEAT_LOST_S", "POOL_TOPICS", "Peer", "Pool", "demand_of", "is_wanted"]

BEAT_INTERVAL_S = 1.0
"""Source: the contract, beat ("once a second")."""
BEAT_LOST_S = 3.0
"""Without a sign of life for so long a worker is taken for dead, also where its connection stands. A frozen one's
cameras are to be scored again within 5 s."""
_BEAT_MISSED_S = 2.0
"""Without a sign of life for so long a worker has missed a beat at least, whatever its beats' phase."""
_REJOIN_S = 10.0
"""How long after our own new connection the others may take for theirs: a pause of up to 5 s between attempts, and as
much for the attempt."""
_AWAY_KEPT_S = 60.0
"""A camera that is offline or in error keeps its place for so long."""
_LEAST_FPS = 0.5
"""What a camera gets at least where there is no room for all: the default of `detector.min_rate_fps`."""
_UNSAID_FPS = 5.0
"""What a camera asks for that does not say: the default of `motion_fps`."""
_CAMERAS_MAX = 4000
_PEERS_MAX = 2000
"""Names come from topics, which whoever has access to the bus may invent: what is kept of them is bounded."""

POOL_TOPICS = (CAMERA_STATE, CAMERA_OWNER, NODE_STATUS, NODE_WORKER, NODE_WORKER_BEAT)
"""What a pool must be told of."""


@dataclass(slots=True)
class Peer:
    """What is known of one process that may be a worker.

    Attributes:
        status: what it says of itself as a worker; None while it does not.
        beat: the last one.
        sign_s: monotonic seconds of its last sign of life.
        away: the broker says that its connection broke.
        away_sure: and the broker has answered us since, so that it is not the broker that dies.
        silent: it was taken for dead for its silence.
    """

    sign_s: float
    status: WorkerStatus | None = None
    beat: WorkerBeat | None = None
    away: bool = False
    away_sure: bool = False
    silent: bool = False

    @property
    def is_there(self) -> bool:
        """Whether it is a worker that lives."""
        return self.status is not None and self.status.state != "offline" and not self.away and not self.silent

    def shows_life(self, now_s: float) -> None:
        """It did something."""
        self.sign_s = max(self.sign_s, now_s)
        self.away = self.away_sure = self.silent = False


@dataclass(slots=True)
class Pool:
    """Facts of one site.

    Attributes:
        me: origin of the worker whose view it is; it is never judged. Empty for an onlooker.
        peers: by origin.
        cameras: states by camera.
        owners: last word on the owner of each camera, in the broker's order.
        doubts: times that everybody else fell silent at once, which is the bus and not they.
    """

    me: str = ""
    peers: dict[str, Peer] = field(default_factory=dict)
    cameras: dict[str, CameraState] = field(default_factory=dict)
    owners: dict[str, CameraOwner] = field(default_factory=dict)
    doubts: int = 0
    _rejoin_until_s: float = float("-inf")
    _doubting: bool = False

    def fold(self, delivery: Delivery, now_s: float) -> bool:
        """Take one message in.

        Returns:
            Whether anything changed that decides who takes what.
        """
        topic, content = delivery.topic, delivery.content
        if topic.camera:
            return self._fold_camera(topic.camera, content if topic.spec is CAMERA_STATE else None, delivery)
        origin = origin_of(topic.params["node"], topic.params["role"])
        peer = self.peers.get(origin)
        if peer is None:
            if len(self.peers) >= _PEERS_MAX:
                return False
            peer = self.peers[origin] = Peer(now_s)
        before = (peer.is_there, peer.status)
        self._fold_peer(origin, peer, delivery, now_s)
        return before != (peer.is_there, peer.status)

    def connected(self, now_s: float) -> None:
        """Our connection is a new one: the others' may take a while, and what a dying broker said of them is void."""
        self._rejoin_until_s = now_s + _REJOIN_S
        for peer in self.peers.values():
            if peer.away and not peer.away_sure:
                peer.away = False
            if peer.is_there:
                peer.sign_s = max(peer.sign_s, self._rejoin_until_s - BEAT_LOST_S)

    def resumed(self, now_s: float) -> None:
        """The bus, or we, stood still: the others are only as silent as from now on."""
        for peer in self.peers.values():
            peer.sign_s = max(peer.sign_s, now_s)

    def confirm(self) -> None:
        """The broker has answered us: what it said before of others counts."""
        for peer in self.peers.values():
            peer.away_sure = peer.away

    def judge(self, now_s: float) -> list[str]:
        """Take for dead who is silent for too long; nobody where all others fell silent at once.

        Only to be called when one of our own beats has come back.

        Returns:
            Who was taken for dead.
        """
        others = {name: peer for name, peer in self.peers.items() if name != self.me and peer.is_there}
        silent = [name for name, peer in others.items() if now_s - peer.sign_s > BEAT_LOST_S]
        if not silent:
            self._doubting = False
            return []
        if len(others) > 1 and all(now_s - peer.sign_s > _BEAT_MISSED_S for peer in others.values()):
            self.doubts += not self._doubting
            self._doubting = True
            return []
        for name in silent:
            others[name].silent = True
        return silent

    def is_overdue(self, now_s: float) -> bool:
        """Whether there is somebody to judge."""
        return any(
            peer.is_there and now_s - peer.sign_s > BEAT_LOST_S
            for name, peer in list(self.peers.items())
            if name != self.me
        )

    def others(self) -> list[str]:
        """The other workers that live, sorted."""
        return sorted(name for name, peer in self.peers.items() if name != self.me and peer.is_there)

    def workers(self) -> tuple[Worker, ...]:
        """Who takes cameras on; one that drains does not."""
        return tuple(
            Worker(name, peer.status.capacity_fps, frozenset(peer.status.classes), frozenset(peer.status.labels))
            for name, peer in sorted(self.peers.items())
            if peer.is_there and peer.status is not None and peer.status.state == "online"
        )

    def demands(self, now: datetime) -> tuple[Demand, ...]:
        """The cameras that somebody is to score."""
        return tuple(
            demand_of(camera, state, self.owner(camera))
            for camera, state in sorted(self.cameras.items())
            if is_wanted(state, now)
        )

    def owner(self, camera: str) -> str:
        """Who has a camera by the last word; empty where nobody does."""
        owner = self.owners.get(camera)
        return "" if owner is None else owner.worker

    def _fold_camera(self, camera: str, state: object, delivery: Delivery) -> bool:
        if delivery.topic.spec is CAMERA_OWNER:
            owner = delivery.content
            if isinstance(owner, CameraOwner) and (camera in self.owners or len(self.owners) < _CAMERAS_MAX):
                self.owners[camera] = owner
            return True
        before = self.cameras.pop(camera, None)
        if isinstance(state, CameraState) and len(self.cameras) < _CAMERAS_MAX:
            self.cameras[camera] = state
        return before is None or not isinstance(state, CameraState) or _facts(before) != _facts(state)

    def _fold_peer(self, origin: str, peer: Peer, delivery: Delivery, now_s: float) -> None:
        match delivery.content:
            case WorkerBeat() as beat:
                peer.beat = beat
                peer.shows_life(now_s)
            case WorkerStatus() as status:
                peer.status = status
                if not delivery.retained:
                    peer.shows_life(now_s)
            case NodeStatus(state="offline"):
                # What is kept after a restart of the broker was laid down by the one that died.
                is_old = delivery.retained and now_s < self._rejoin_until_s and peer.is_there
                peer.away = not is_old and origin != self.me
            case NodeStatus():
                peer.away = peer.away_sure = False
                if not delivery.retained:
                    peer.shows_life(now_s)


def is_wanted(state: CameraState, now: datetime) -> bool:
    """Whether workers are to score a camera."""
    if state.scored_by != "workers" or state.privacy or not state.detection or state.mode == "off":
        return False
    return state.state == "online" or (now - state.at).total_seconds() < _AWAY_KEPT_S


def demand_of(camera: str, state: CameraState, owner: str) -> Demand:
    """What a camera asks of its worker.

    Looking at parts of a picture does not count: a worker that does not keep up looks at fewer.
    """
    asked_fps = state.demand_fps or _UNSAID_FPS
    return Demand(camera, asked_fps, state.worker_class, frozenset(state.labels), owner, least=_LEAST_FPS)


def _facts(state: CameraState) -> tuple[object, ...]:
    return (
        state.state, state.mode, state.privacy, state.detection, state.scored_by, state.demand_fps,
        state.worker_class, state.labels,
    )  # fmt: skip
