"""Which cameras are this worker's.

Every worker folds the same facts from the bus and computes the same assignment (:mod:`broker.assignment`); it claims
what falls to it and gives up what somebody else claims. Everything is decided on the bus's thread when one of our own
beats comes back through the broker: then whatever the broker said before it has been heard, and the bus is alive.
What a worker owns is a lease that its beats renew: when they do not come back, it scores nothing, before anybody else
could have taken it for dead.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from broker import Bus, Content, Delivery, Figures
from broker.assignment import Demand, assign, obstacle
from broker.heartbeat import Heartbeat
from broker.messages import CameraOwner, ModelRef, ScoredCamera, WorkerBeat, WorkerStatus
from broker.peers import BEAT_INTERVAL_S
from broker.pool import POOL_TOPICS, Pool
from broker.topics import CAMERA_OWNER, NODE_WORKER, NODE_WORKER_BEAT
from config import Clock, Supervised, SystemClock, get_logger
from detector.claims import Claims, Holding

__all__ = ["CameraScores", "Offer", "OwnedCameras", "Ownership", "OwnsAll"]

_TICK_S = 0.25
"""How soon silence is noticed once it is long enough."""
_SETTLE_S = 0.5
"""How long a new connection is listened to before anything is claimed, where there are other workers."""
_CAMERAS_MAX = 1000
"""As many as a worker knows."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a worker can do; see :class:`broker.messages.WorkerStatus`."""

    capacity_fps: float
    classes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    model: ModelRef | None = None
    model_wanted: ModelRef | None = None
    model_error: str = ""
    model_version: int = 0


@dataclass(frozen=True, slots=True)
class CameraScores:
    """How a worker does with one camera; see :class:`broker.messages.ScoredCamera`."""

    fps: float = 0.0
    age_ms: float = 0.0
    dropped: int = 0
    late: int = 0


def _pass(_camera: str) -> None:
    """Whoever gets all frames need not ask for any."""


class OwnedCameras(Protocol):
    """Says which cameras are this worker's.

    Concurrency: `epoch` may be called from any thread, and is quick. The callbacks are called on the bus's thread, in
    the order of what the broker sends: a frame that comes after `on_gain` is this worker's, one that comes after
    `on_loss` is not. They must be short.
    """

    def start(
        self,
        on_gain: Callable[[str, int], None],
        on_loss: Callable[[str], None],
        on_claim: Callable[[str], None] = _pass,
    ) -> None:
        """Begin; before the bus is started.

        Args:
            on_gain: a camera is this worker's from now on, under this epoch.
            on_loss: a camera is not this worker's any more, or will not be: its rules must stop at once.
            on_claim: a camera is about to be claimed: its frames must be asked for now, so that none is missed.
        """
        ...

    def epoch(self, camera: str) -> int | None:
        """The epoch under which a camera is this worker's; None when it is not, or that is in doubt now."""
        ...

    def drain(self, timeout_s: float) -> None:
        """Give everything away, and wait until it is taken; what nobody has room for stays until `close`."""
        ...

    def close(self) -> None:
        """Say that this worker is gone."""
        ...

    def figures(self) -> Figures:
        """Counts for the health report."""
        ...


class OwnsAll:
    """Every camera is this worker's: that of a node which scores its own."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._lock = threading.Lock()
        self._on_gain: Callable[[str, int], None] = lambda _camera, _epoch: None
        self._on_loss: Callable[[str], None] = _pass

    def start(
        self,
        on_gain: Callable[[str, int], None],
        on_loss: Callable[[str], None],
        on_claim: Callable[[str], None] = _pass,
    ) -> None:
        """Begin; `on_gain` is called with each camera that `epoch` is asked for the first time."""
        del on_claim
        self._on_gain, self._on_loss = on_gain, on_loss

    def leave(self, camera: str) -> None:
        """Its node watches a camera no more; a later frame makes it this worker's again."""
        with self._lock:
            was_known = camera in self._known
            self._known.discard(camera)
        if was_known:
            self._on_loss(camera)

    def epoch(self, camera: str) -> int | None:
        """0: there is no other owner."""
        with self._lock:
            is_new = camera not in self._known and len(self._known) < _CAMERAS_MAX
            if is_new:
                self._known.add(camera)
        if is_new:
            self._on_gain(camera, 0)
        return 0

    def drain(self, timeout_s: float) -> None:
        """Nobody takes anything over."""

    def close(self) -> None:
        """Nobody is told."""

    def figures(self) -> Figures:
        """Nothing that the worker does not count itself."""
        return Figures()


class Ownership:
    """Claims the cameras that fall to this worker, and gives up those that others claim.

    Concurrency: as :class:`OwnedCameras` says; `start`, `drain` and `close` belong to one thread.

    Args:
        bus: started after `start`.
        offer: what this worker can do now; asked once a second.
        scored: how it does with each camera since the last time that it was asked; asked once a second.
        clock: time.
    """

    def __init__(
        self,
        bus: Bus,
        offer: Callable[[], Offer],
        *,
        scored: Callable[[], Mapping[str, CameraScores]] = dict,
        clock: Clock | None = None,
    ) -> None:
        self._bus = bus
        self._offer = offer
        self._scored = scored
        self._clock: Clock = clock or SystemClock()
        self._log = get_logger(origin=bus.origin)
        node, _, role = bus.origin.partition(".")
        self._place = {"node": node, "role": role}
        self._lock = threading.RLock()
        self._pool = Pool(bus.origin)
        self._claims = Claims(bus.origin)
        self._on_gain: Callable[[str, int], None] = lambda _camera, _epoch: None
        self._on_loss: Callable[[str], None] = _pass
        self._on_claim: Callable[[str], None] = _pass
        self._state: Literal["online", "draining", "offline"] = "online"
        self._said: WorkerStatus | None = None
        self._heartbeat = Heartbeat(self._pool)
        self._report_s = float("-inf")
        self._scores: Mapping[str, CameraScores] = {}
        self._orphans: tuple[str, ...] = ()
        self._squeezed: tuple[str, ...] = ()
        self._told: dict[str, int] = {}
        self._to_give: set[str] | None = None
        self._given = threading.Condition(self._lock)
        self._stop = threading.Event()
        self._thread = Supervised("ownership", self._tick, stop=self._stop, clock=self._clock)

    def start(
        self,
        on_gain: Callable[[str, int], None],
        on_loss: Callable[[str], None],
        on_claim: Callable[[str], None] = _pass,
    ) -> None:
        """Listen for the facts, and begin to say that this worker is there; see :class:`OwnedCameras`."""
        self._on_gain, self._on_loss, self._on_claim = on_gain, on_loss, on_claim
        for spec in POOL_TOPICS:
            self._bus.subscribe(spec, self._on_fact)
        self._say_status()
        self._thread.start()

    def epoch(self, camera: str) -> int | None:
        """The epoch under which a camera is this worker's; None when it is not, or its beats do not come back."""
        holding = self._claims.held.get(camera)
        if holding is None or not self._heartbeat.is_leased(self._clock.monotonic_s()):
            return None
        return holding.epoch

    def drain(self, timeout_s: float) -> None:
        """Take nothing more, and go on until others have claimed what they have room for, or the time is over."""
        with self._given:
            self._state = "draining"
            self._say_status()
            if not self._bus.connected or not self._pool.others():
                return
            self._beat()
            self._given.wait_for(lambda: self._to_give is not None and not self._to_give, timeout_s)
            left = sorted(self._claims.held)
        if left:
            self._log.warning("detector.cameras_left", cameras=left[:20], count=len(left))

    def close(self) -> None:
        """Say that this worker is gone."""
        self._stop.set()
        self._thread.join(1.0)
        with self._lock:
            self._state = "offline"
            self._say_status()

    def figures(self) -> Figures:
        """What it owns and how often that changed; `cameras_orphaned` and `cameras_squeezed` say when to scale."""
        claims = self._claims
        return Figures(
            queues={"cameras_orphaned": len(self._orphans), "cameras_squeezed": len(self._squeezed)},
            counts={
                "cameras_owned": len(claims.held),
                "camera_claims": claims.made,
                "cameras_yielded": claims.yielded,
                "claims_defended": claims.defended,
                "bus_doubts": self._pool.doubts,
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
                self._scores = self._scored()
                self._say_status()
                self._beat()
            elif self._heartbeat.is_due(now_s, 2 * _TICK_S):
                self._beat()
        self._clock.wait(self._stop, _TICK_S)

    def _say_status(self) -> None:
        offer, said = self._offer(), self._said
        status = WorkerStatus(
            worker=self._bus.origin,
            state=self._state,
            at=self._clock.now() if said is None else said.at,
            capacity_fps=offer.capacity_fps,
            classes=offer.classes,
            labels=offer.labels,
            model=offer.model,
            model_wanted=offer.model_wanted,
            model_error=offer.model_error,
            model_version=offer.model_version,
        )
        if status != said:
            self._said = status
            self._bus.publish(NODE_WORKER.at(self._bus.site, **self._place), status)

    def _beat(self) -> None:
        seq = self._heartbeat.next_seq(self._clock.monotonic_s())
        cameras = {
            camera: _scored_camera(holding, self._scores.get(camera, CameraScores()))
            for camera, holding in self._claims.held.items()
        }
        beat = WorkerBeat(worker=self._bus.origin, seq=seq, at=self._clock.now(), cameras=cameras)
        self._bus.publish(NODE_WORKER_BEAT.at(self._bus.site, **self._place), beat)

    # --- facts and decisions, on the bus's thread --------------------------------------------------------------------

    def _on_fact(self, delivery: Delivery) -> None:
        with self._lock:
            now_s = self._clock.monotonic_s()
            self._notice_connection(now_s)
            changed = self._pool.fold(delivery, now_s)
            spec = delivery.topic.spec
            if spec is CAMERA_OWNER and isinstance(delivery.content, CameraOwner):
                self._on_owner(delivery.topic.camera, delivery.content, now_s)
            elif spec is NODE_WORKER_BEAT and delivery.topic.params == self._place:
                self._on_echo(delivery.content, now_s)
            if changed and self._heartbeat.is_answered:
                self._beat()  # else the answer that is on its way comes after this fact, and decides

    def _notice_connection(self, now_s: float) -> None:
        is_first = not self._heartbeat.connections
        if not self._heartbeat.notice(self._bus.connections, now_s):
            return
        if not is_first:
            self._claims.reconnected()
        self._told.clear()
        self._beat()

    def _on_echo(self, beat: Content, now_s: float) -> None:
        silent = self._heartbeat.answer(beat.seq, now_s) if isinstance(beat, WorkerBeat) else None
        if silent is None:
            return
        for name in silent:
            self._log.warning("detector.peer_silent", worker=name)
        if self._heartbeat.settle(now_s, _SETTLE_S if self._pool.others() else 0.0):
            self._decide(now_s)

    def _decide(self, now_s: float) -> None:
        demands = self._pool.demands(self._clock.now())
        assignment = assign(self._pool.workers(), demands)
        wanted = {demand.name for demand in demands}
        for camera in (*self._claims.held, *self._claims.waiting()):
            if camera not in wanted:
                self._release(camera)
        for camera, worker in assignment.owners.items():
            if worker == self._bus.origin and self._state == "online" and self._claims.may_claim(camera, now_s):
                self._on_claim(camera)
                self._say_owner(camera, self._bus.origin, self._claims.claim(camera, self._pool.owners.get(camera)))
        self._orphans, self._squeezed = assignment.orphans, assignment.squeezed
        self._tell_orphans(demands)
        self._note_given(assignment.owners)

    def _on_owner(self, camera: str, owner: CameraOwner, now_s: float) -> None:
        match self._claims.on_owner(camera, owner, self._clock.now(), now_s):
            case "gained":
                self._log.info("detector.camera_gained", camera=camera, epoch=owner.epoch)
                self._on_gain(camera, owner.epoch)
            case "lost":
                self._log.info("detector.camera_lost", camera=camera, to=owner.worker, epoch=owner.epoch)
                self._on_loss(camera)
            case "defend":
                self._say_owner(camera, self._bus.origin, self._claims.held[camera].epoch)
        if owner.worker != self._bus.origin and not self._claims.has(camera):
            self._bus.disown(CAMERA_OWNER.at(self._bus.site, camera=camera))
        self._note_given()

    def _release(self, camera: str) -> None:
        self._bus.disown(CAMERA_OWNER.at(self._bus.site, camera=camera))
        if self._claims.release(camera):
            self._log.info("detector.camera_released", camera=camera)
            self._on_loss(camera)

    def _say_owner(self, camera: str, worker: str, epoch: int) -> None:
        owner = CameraOwner(camera=camera, worker=worker, epoch=epoch, at=self._clock.now())
        self._bus.publish(CAMERA_OWNER.at(self._bus.site, camera=camera), owner)

    def _tell_orphans(self, demands: Sequence[Demand]) -> None:
        """Say that a camera has no owner, as the first of the workers; what one that drains still has is its own."""
        workers = self._pool.workers()
        if not workers or workers[0].name != self._bus.origin:
            return
        draining = set(self._pool.others()).difference(worker.name for worker in workers)
        for demand in demands:
            known = self._pool.owners.get(demand.name)
            epoch = 1 if known is None else known.epoch + 1
            is_known = known is not None and not known.worker
            if demand.name not in self._orphans or is_known or demand.owner in draining:
                continue
            if self._told.get(demand.name) != epoch:
                self._told[demand.name] = epoch
                reason = obstacle(demand, workers)
                self._log.warning("detector.camera_orphaned", camera=demand.name, reason=reason)
                self._say_owner(demand.name, "", epoch)
                self._bus.disown(CAMERA_OWNER.at(self._bus.site, camera=demand.name))

    def _note_given(self, owners: Mapping[str, str] | None = None) -> None:
        """While this worker drains: what others will still take."""
        own = self._pool.peers.get(self._bus.origin)
        if self._state != "draining" or own is None or own.status is None or own.status.state != "draining":
            return
        if owners is not None:
            self._to_give = set(owners)
        if self._to_give is not None:
            self._to_give = self._to_give.intersection(self._claims.held)
            self._given.notify_all()


def _scored_camera(holding: Holding, scores: CameraScores) -> ScoredCamera:
    return ScoredCamera(
        since=holding.since,
        epoch=holding.epoch,
        fps=scores.fps,
        age_ms=scores.age_ms,
        dropped=scores.dropped,
        late=scores.late,
    )
