"""The pool of workers as the bus tells of it: who is there, what is to be done, and who has what.

No I/O and no clock: deliveries and times come in. Workers decide by it, and people read it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from broker.assignment import Demand, Worker
from broker.intake import Delivery
from broker.messages import CameraOwner, CameraState, NodeStatus, WorkerBeat, WorkerStatus
from broker.peers import Peer, Peers
from broker.topics import CAMERA_OWNER, CAMERA_STATE, NODE_STATUS, NODE_WORKER, NODE_WORKER_BEAT, origin_of

__all__ = ["POOL_TOPICS", "Pool", "WorkerPeer", "demand_of", "is_wanted"]

_AWAY_KEPT_S = 60.0
"""A camera that is offline or in error keeps its place for so long."""
_LEAST_FPS = 0.5
"""What a camera gets at least where there is no room for all: the default of `detector.min_rate_fps`."""
_UNSAID_FPS = 5.0
"""What a camera asks for that does not say: the default of `motion_fps`."""
_CAMERAS_MAX = 4000
"""Names come from topics, which whoever has access to the bus may invent: what is kept of them is bounded."""

POOL_TOPICS = (CAMERA_STATE, CAMERA_OWNER, NODE_STATUS, NODE_WORKER, NODE_WORKER_BEAT)
"""What a pool must be told of."""


@dataclass(slots=True)
class WorkerPeer(Peer):
    """What is known of one process that may be a worker.

    Attributes:
        status: what it says of itself as a worker; None while it does not.
        beat: the last one.
    """

    status: WorkerStatus | None = None
    beat: WorkerBeat | None = None

    @property
    def takes_part(self) -> bool:
        """Whether it says that it is a worker."""
        return self.status is not None and self.status.state != "offline"


@dataclass(slots=True)
class Pool(Peers[WorkerPeer]):
    """Facts of one site.

    Attributes:
        cameras: states by camera.
        owners: last word on the owner of each camera, in the broker's order.
    """

    cameras: dict[str, CameraState] = field(default_factory=dict)
    owners: dict[str, CameraOwner] = field(default_factory=dict)

    def _new_peer(self, now_s: float) -> WorkerPeer:
        return WorkerPeer(now_s)

    def fold(self, delivery: Delivery, now_s: float) -> bool:
        """Take one message in.

        Returns:
            Whether anything changed that decides who takes what.
        """
        topic, content = delivery.topic, delivery.content
        if topic.camera:
            return self._fold_camera(topic.camera, content if topic.spec is CAMERA_STATE else None, delivery)
        origin = origin_of(topic.params["node"], topic.params["role"])
        peer = self._peer(origin, now_s)
        if peer is None:
            return False
        before = (peer.is_there, peer.status)
        self._fold_peer(origin, peer, delivery, now_s)
        return before != (peer.is_there, peer.status)

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

    def _fold_peer(self, origin: str, peer: WorkerPeer, delivery: Delivery, now_s: float) -> None:
        match delivery.content:
            case WorkerBeat() as beat:
                peer.beat = beat
                peer.shows_life(now_s)
            case WorkerStatus() as status:
                peer.status = status
                if not delivery.retained:
                    peer.shows_life(now_s)
            case NodeStatus() as status:
                self._fold_node(origin, peer, status, delivery, now_s)


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
