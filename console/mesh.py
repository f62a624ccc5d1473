"""What the bus says of the mesh, folded into one view: the state that status, watch and the web page show.

No I/O and no clock: deliveries and the time come in, a snapshot goes out.
"""

from __future__ import annotations

import statistics
import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from broker import Delivery, Frame
from broker.epochs import Epochs
from broker.messages import (
    CameraOwner,
    CameraState,
    Detections,
    Escalation,
    Message,
    MotionEvent,
    NodeHealth,
    NodeStatus,
    Receipt,
    Receipts,
    Reject,
)
from broker.topics import CAMERA_FRAME, CAMERA_MOTION_ACTIVE, origin_of

__all__ = ["CameraFigures", "MeshSnapshot", "MeshView", "RoleFigures"]

RATE_WINDOW_S = 5.0
"""Seconds over which a rate is counted: five frames at the idle rate of one a second."""
LATENCIES_KEPT = 300
"""Latencies that percentiles are taken of: a minute at 5 frames/s."""
CAMERAS_MAX = 512
ROLES_MAX = 512
"""Names come from topics, which anybody with access to the bus may invent: what is kept of them is bounded."""
ESCALATIONS_KEPT = 20_000
"""Ids remembered, so that one sent again is counted once."""


class CameraFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One camera now.

    Attributes:
        state: as its node says; ``unknown`` until it has said anything.
        privacy: no picture leaves its node.
        detection: workers score its frames.
        fps_in: frames a second on the bus, over the last seconds.
        fps_scored: scored frames a second.
        latency_p50_ms: from capture to the published score, median; None before the first score.
        latency_p99_ms: the same, 99th percentile.
        frames: frames seen since this view began.
        scored: of these, scored ones.
        escalations: raised since this view began, each id once.
        confirmed: of these, those with a sink's receipt.
        model: name of the model that scored last.
        worker: who scores it; empty where nobody said so.
        orphan: no worker takes it on.
    """

    name: str
    state: Literal["online", "offline", "error", "unknown"]
    error: str | None
    node: str
    mode: str
    privacy: bool
    detection: bool
    recording: Literal["off", "on", "failed"]
    width: int
    height: int
    fps_in: float
    fps_scored: float
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    motion: bool
    motion_score: float
    frames: int
    scored: int
    escalations: int
    confirmed: int
    model: str
    worker: str
    orphan: bool


class RoleFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One process of the mesh now.

    Attributes:
        drops: messages dropped since this view began, restarts of the process included, by queue.
        memory_bytes: resident; 0 before the first report.
    """

    node: str
    role: str
    state: Literal["online", "offline", "draining"]
    cpu_percent: float
    memory_bytes: int
    drops: dict[str, int]
    queues: dict[str, int]


class MeshSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The mesh at one moment.

    Attributes:
        rejects: messages that processes could not use, by the origin of the process that says so.
        ignored: cameras and processes beyond the number that is kept.
        late_scores: scores of workers that were not the camera's any more; they are passed over.
    """

    cameras: tuple[CameraFigures, ...]
    roles: tuple[RoleFigures, ...]
    rejects: dict[str, int]
    ignored: int
    late_scores: int

    @property
    def rejected(self) -> int:
        """Messages that could not be used, in all."""
        return sum(self.rejects.values())

    def dropped(self) -> dict[str, int]:
        """Drops of all processes as ``role.queue``, without those that are zero or are rejects."""
        return {
            f"{figures.role}.{queue}": count
            for figures in self.roles
            for queue, count in figures.drops.items()
            if count and queue != "rejected"
        }


class _Rate:
    """Events a second over the last seconds."""

    def __init__(self) -> None:
        self.total = 0
        self._first_s: float | None = None
        self._times_s: deque[float] = deque(maxlen=1000)

    def count(self, now_s: float) -> None:
        self.total += 1
        self._first_s = now_s if self._first_s is None else self._first_s
        self._times_s.append(now_s)

    def per_second(self, now_s: float) -> float:
        if self._first_s is None:
            return 0.0
        window_s = min(RATE_WINDOW_S, max(1.0, now_s - self._first_s))
        while self._times_s and self._times_s[0] <= now_s - window_s:
            self._times_s.popleft()
        return len(self._times_s) / window_s


@dataclass(slots=True)
class _Camera:
    name: str
    state: CameraState | None = None
    owner: CameraOwner | None = None
    motion: bool = False
    motion_score: float = 0.0
    frame_size: tuple[int, int] = (0, 0)
    frames: _Rate = field(default_factory=_Rate)
    scores: _Rate = field(default_factory=_Rate)
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES_KEPT))
    escalations: int = 0
    confirmed: int = 0
    model: str = ""

    def figures(self, now_s: float) -> CameraFigures:
        state = self.state
        p50_ms, p99_ms = _percentiles(self.latencies_ms)
        width, height = self.frame_size
        return CameraFigures(
            name=self.name,
            state=state.state if state else "unknown",
            error=state.error if state else None,
            node=state.node if state else "",
            mode=state.mode if state else "",
            privacy=state.privacy if state else False,
            detection=state.detection if state else True,
            recording=state.recording if state else "off",
            width=width,
            height=height,
            fps_in=round(self.frames.per_second(now_s), 1),
            fps_scored=round(self.scores.per_second(now_s), 1),
            latency_p50_ms=p50_ms,
            latency_p99_ms=p99_ms,
            motion=self.motion,
            motion_score=self.motion_score,
            frames=self.frames.total,
            scored=self.scores.total,
            escalations=self.escalations,
            confirmed=self.confirmed,
            model=self.model,
            worker=self.owner.worker if self.owner else "",
            orphan=self.owner is not None and not self.owner.worker,
        )


@dataclass(slots=True)
class _Role:
    status: NodeStatus | None = None
    health: NodeHealth | None = None
    drops_before: dict[str, int] = field(default_factory=dict)

    def on_health(self, health: NodeHealth) -> None:
        before = self.health
        if before is not None and health.uptime_s < before.uptime_s:
            # The process was started again and counts from zero.
            self.drops_before = _sum(self.drops_before, before.drops)
        self.health = health

    def figures(self, node: str, role: str) -> RoleFigures:
        health = self.health
        return RoleFigures(
            node=node,
            role=role,
            state=self.status.state if self.status else "online",
            cpu_percent=health.cpu_percent if health else 0.0,
            memory_bytes=health.memory_bytes if health else 0,
            drops=_sum(self.drops_before, health.drops if health else {}),
            queues=dict(health.queues) if health else {},
        )


class MeshView:
    """Everything seen since it was made.

    Concurrency: `fold` and `snapshot` may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cameras: dict[str, _Camera] = {}
        self._roles: dict[tuple[str, str], _Role] = {}
        self._unconfirmed: OrderedDict[str, str] = OrderedDict()
        self._confirmed: OrderedDict[str, str] = OrderedDict()
        self._rejects: dict[str, int] = {}
        self._ignored = 0
        self._epochs = Epochs()

    def fold(self, delivery: Delivery, now_s: float) -> bool:
        """Take in one message.

        Args:
            delivery: the message; of a kind that says nothing here, it is passed over.
            now_s: monotonic seconds.

        Returns:
            False for scores that come too late to be shown anywhere.
        """
        with self._lock:
            content = delivery.content
            if not self._epochs.takes(delivery, now_s):
                return False
            if delivery.topic.camera:
                camera = self._camera(delivery.topic.camera)
                if camera is not None:
                    self._fold_camera(camera, delivery, now_s)
            elif isinstance(content, NodeStatus | NodeHealth):
                self._fold_role(delivery.topic.params["node"], delivery.topic.params["role"], content)
            elif isinstance(content, Receipts):
                for receipt in content.receipts:
                    self._fold_receipt(receipt)
            elif isinstance(content, Reject):
                self._fold_reject(delivery.topic.params["origin"], content)
            return True

    def snapshot(self, now_s: float) -> MeshSnapshot:
        """The mesh as it is now; cameras and processes in the order of their names."""
        with self._lock:
            return MeshSnapshot(
                cameras=tuple(self._cameras[name].figures(now_s) for name in sorted(self._cameras)),
                roles=tuple(self._roles[key].figures(*key) for key in sorted(self._roles)),
                rejects=self._rejects_by_origin(),
                ignored=self._ignored,
                late_scores=self._epochs.late,
            )

    def _rejects_by_origin(self) -> dict[str, int]:
        """What processes said on their reject topics, which is at most once a second, and in their health."""
        reported = {
            origin_of(node, role): held.health.drops.get("rejected", 0)
            for (node, role), held in self._roles.items()
            if held.health is not None
        }
        counts = {
            origin: max(self._rejects.get(origin, 0), reported.get(origin, 0)) for origin in self._rejects | reported
        }
        return {origin: count for origin, count in sorted(counts.items()) if count}

    def _camera(self, name: str) -> _Camera | None:
        if name not in self._cameras and len(self._cameras) < CAMERAS_MAX:
            self._cameras[name] = _Camera(name)
        self._ignored += name not in self._cameras
        return self._cameras.get(name)

    def _fold_camera(self, camera: _Camera, delivery: Delivery, now_s: float) -> None:
        content = delivery.content
        if isinstance(content, Frame):
            if delivery.topic.spec is CAMERA_FRAME:
                camera.frames.count(now_s)
                camera.frame_size = (content.meta.width, content.meta.height)
        elif isinstance(content, str):
            if delivery.topic.spec is CAMERA_MOTION_ACTIVE:
                camera.motion = content == "ON"
        elif isinstance(content, Message):
            self._fold_message(camera, content, now_s)

    def _fold_message(self, camera: _Camera, content: Message, now_s: float) -> None:
        if isinstance(content, CameraState):
            camera.state = content
        elif isinstance(content, CameraOwner):
            camera.owner = content
        elif isinstance(content, MotionEvent):
            camera.motion_score = content.score if content.type != "end" else 0.0
        elif isinstance(content, Detections):
            camera.scores.count(now_s)
            camera.latencies_ms.append((content.published_at - content.captured_at).total_seconds() * 1e3)
            camera.model = content.model.name
        elif isinstance(content, Escalation):
            self._fold_escalation(camera, content.id)

    def _fold_escalation(self, camera: _Camera, event_id: str) -> None:
        if event_id in self._unconfirmed or event_id in self._confirmed:
            return
        _remember(self._unconfirmed, event_id, camera.name)
        camera.escalations += 1

    def _fold_receipt(self, receipt: Receipt) -> None:
        name = self._unconfirmed.pop(receipt.event_id, None)
        if name is not None:
            _remember(self._confirmed, receipt.event_id, name)
            self._cameras[name].confirmed += 1

    def _fold_role(self, node: str, role: str, content: NodeStatus | NodeHealth) -> None:
        key = (node, role)
        if key not in self._roles and len(self._roles) >= ROLES_MAX:
            self._ignored += 1
            return
        held = self._roles.setdefault(key, _Role())
        if isinstance(content, NodeStatus):
            held.status = content
        else:
            held.on_health(content)

    def _fold_reject(self, origin: str, reject: Reject) -> None:
        if origin in self._rejects or len(self._rejects) < ROLES_MAX:
            self._rejects[origin] = max(self._rejects.get(origin, 0), reject.count)


def _remember(ids: OrderedDict[str, str], event_id: str, camera: str) -> None:
    ids[event_id] = camera
    if len(ids) > ESCALATIONS_KEPT:
        ids.popitem(last=False)


def _sum(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    return {key: first.get(key, 0) + second.get(key, 0) for key in first | second}


def _percentiles(values: Sequence[float]) -> tuple[float | None, float | None]:
    if not values:
        return None, None
    ranked = sorted(values)
    p99 = ranked[min(len(ranked) - 1, round(0.99 * (len(ranked) - 1)))]
    return round(statistics.median(ranked), 1), round(p99, 1)
