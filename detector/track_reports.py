"""Tells the bus what becomes of objects, and keeps there what another worker needs to go on."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import msgspec

from broker import Bus, NewEvent
from broker.messages import FrameMeta, ModelRef, OpenEvents, PathPoint, TrackEvent
from broker.topics import CAMERA_TRACK, CAMERA_TRACK_OPEN
from config import BacklogFullError, BadPayloadError, Clock, Supervised, TransientError, get_logger
from detector.objects import moment
from detector.scene import Step, Track
from detector.watching import CameraWatch, Look, TrackChange

__all__ = ["TrackReports"]

_OPEN_EACH_S = 2.0
"""How often what is open is kept at the broker while nothing begins or ends."""
_PATH_POINTS = 32
"""Places of an object in an event: a line on a page, in 2 kB."""
_FLUSH_EACH_S = 0.1
_TOGETHER_MAX = 64
"""How often what was reported goes to the disk, and how many events at a time: a flush takes from 2 to 50 ms, and a
busy worker has twenty events a second."""
_JOIN_S = 3.0
_HELD_MAX = 10_000
"""Events in memory while the outbox takes none: 30 MB."""


@dataclass(frozen=True, slots=True)
class _Begun:
    """An object whose start is in this worker's outbox, and not its end.

    Attributes:
        event_id: of the start.
        start: None where this life of the process said it.
    """

    camera: str
    event_id: str
    start: TrackEvent | None = None


@dataclass(slots=True)
class _Kept:
    """What was last kept at the broker of a camera."""

    known: OpenEvents
    said_s: float


class TrackReports:
    """Publishes the events of objects, and the retained `track/open`.

    Events go to the outbox on a thread of their own, some at a time: a report never waits for the disk.

    While the outbox takes nothing, events are held in order and counted. An update makes way for a newer one of its
    object; starts and ends are kept.

    What a life of this process before has begun goes on here, where `track/open` says that it is there still; or it is
    somebody else's to end, who has taken the camera over; or it ends as `interrupted`, where nobody knows of it: the
    broker may have forgotten it, or never heard.

    Concurrency: may be used from any thread, for one camera by one at a time.

    Args:
        bus: with an outbox.
        clock: time.
        held_max: events that are held back before the oldest are lost, and counted.
    """

    def __init__(self, bus: Bus, *, clock: Clock, held_max: int = _HELD_MAX) -> None:
        self._bus = bus
        self._clock = clock
        self._held_max = held_max
        self._held: deque[TrackEvent] = deque()
        self._kept: dict[str, _Kept] = {}
        self._begun: dict[str, _Begun] = {}
        self._forget: list[str] = []
        self._lock = threading.Lock()
        self._going: list[TrackEvent] = []
        self._flushing = threading.Lock()
        self._stop = threading.Event()
        self._thread = Supervised("tells", self._flush_once, stop=self._stop, clock=clock)
        self._log = get_logger(origin=bus.origin)
        self.told = 0
        self.lost = 0

    @property
    def held(self) -> int:
        """Events that wait for room in the outbox."""
        return len(self._held) + len(self._going)

    def report(self, watch: CameraWatch, look: Look, meta: FrameMeta, model: ModelRef) -> None:
        """Tell what one frame has changed.

        Args:
            watch: which looked at it.
            look: what it saw.
            meta: of the frame.
            model: which model made the scores.
        """
        self._end_lost(watch, look, meta.captured_at)
        self._tell(watch.camera, look.changes, meta.captured_at, seq=meta.seq, model=model)
        turns = any(change.type != "update" for change in look.changes)
        self._keep(watch, meta.captured_at, at_once=turns or bool(look.firings))

    def report_end(self, watch: CameraWatch, changes: Sequence[TrackChange], at: datetime) -> None:
        """Tell that nobody watches a camera any more.

        Args:
            watch: which has ended.
            changes: what its `end` returned.
            at: when.
        """
        self._tell(watch.camera, changes, at)
        self._keep(watch, at, at_once=True)

    def hand_over(self, watch: CameraWatch, at: datetime) -> None:
        """Keep what is open a last time, for another worker; from now on it is that one's to say."""
        self._keep(watch, at, at_once=True)
        self.leave(watch.camera)

    def leave(self, camera: str) -> None:
        """Say nothing more of what is open on a camera: another worker does."""
        with self._lock:
            self._kept.pop(camera, None)
            self._pass_on([track_id for track_id, begun in self._begun.items() if begun.camera == camera])
        self._bus.disown(CAMERA_TRACK_OPEN.at(self._bus.site, camera=camera))

    def on_open(self, camera: str, known: OpenEvents) -> None:
        """Hear what is open on a camera, from this worker's life before or from another worker.

        What is older than that, and not in it, was ended by somebody.
        """
        with self._lock:
            ended = [
                track_id
                for track_id, begun in self._begun.items()
                if begun.camera == camera
                and begun.start is not None
                and begun.start.at <= known.at
                and track_id not in known.ids
            ]
            self._pass_on(ended)

    def _pass_on(self, track_ids: Sequence[str]) -> None:
        self._forget += [self._begun.pop(track_id).event_id for track_id in track_ids]

    def _end_lost(self, watch: CameraWatch, look: Look, at: datetime) -> None:
        """End what was begun before, and is neither there nor just ended."""
        with self._lock:
            left = {
                track_id: begun.start
                for track_id, begun in self._begun.items()
                if begun.start is not None and begun.camera == watch.camera
            }
        if not left:
            return
        known = {track.track_id for track in watch.memory(at.timestamp()).tracks}
        known |= {change.track.track_id for change in look.changes}
        with self._lock:
            for track_id, start in left.items():
                begun = self._begun.get(track_id)
                if begun is None:
                    continue
                if track_id not in known:
                    self._hold(msgspec.structs.replace(start, type="end", ended="interrupted"))
                self._begun[track_id] = _Begun(begun.camera, begun.event_id)

    def _tell(
        self,
        camera: str,
        changes: Sequence[TrackChange],
        at: datetime,
        *,
        seq: int = 0,
        model: ModelRef | None = None,
    ) -> None:
        if not changes:
            return
        with self._lock:
            for change in changes:
                self._hold(_event(camera, change, at, worker=self._bus.origin, seq=seq, model=model))

    def _hold(self, event: TrackEvent) -> None:
        if event.type == "update":
            older = next((old for old in self._held if (old.track_id, old.type) == (event.track_id, "update")), None)
            if older is not None:
                self._held.remove(older)
        self._held.append(event)
        if len(self._held) > self._held_max:
            self._held.popleft()
            self.lost += 1
            self._log.error("track.lost", lost=self.lost, reason=f"{self._held_max} events wait already")

    def flush(self) -> None:
        """Hand over what is held back, oldest first, as far as the outbox takes it; many with one flush of the disk."""
        with self._flushing:
            while self._going or self._next() or self._forget:
                forget = tuple(self._forget)
                try:
                    ids = self._bus.publish_events([self._made(event) for event in self._going], forget=forget)
                except BadPayloadError as error:
                    self._make_smaller(error)
                    continue
                except (BacklogFullError, TransientError) as error:
                    if len(self._going) > 1:
                        self._take_fewer()
                        continue
                    self._log.warning("track.held", held=self.held, held_max=self._held_max, error=str(error))
                    return
                self.told += len(self._going)
                self._note(ids, len(forget))

    def _note(self, ids: Sequence[str], forgotten: int) -> None:
        """What went: starts are open until their end goes too."""
        with self._lock:
            del self._forget[:forgotten]
            for event, event_id in zip(self._going, ids, strict=True):
                if event.type == "start":
                    self._begun[event.track_id] = _Begun(event.camera, event_id)
                elif event.type == "end" and event.track_id in self._begun:
                    self._pass_on([event.track_id])
            self._going = []

    def _make_smaller(self, error: BadPayloadError) -> None:
        """A broker takes less than the contract promises: leave the paths out, and in the end the events."""
        if any(event.path for event in self._going):
            self._going = [msgspec.structs.replace(event, path=()) for event in self._going]
            return
        self.lost += len(self._going)
        self._log.error("track.lost", lost=self.lost, reason=error.reason)
        self._going = []

    def _take_fewer(self) -> None:
        """All of them or none: there may be room for some."""
        half = len(self._going) // 2
        with self._lock:
            self._held.extendleft(reversed(self._going[half:]))
        self._going = self._going[:half]

    def _next(self) -> bool:
        with self._lock:
            self._going = [self._held.popleft() for _ in range(min(len(self._held), _TOGETHER_MAX))]
        return bool(self._going)

    def _made(self, event: TrackEvent) -> NewEvent:
        begun = self._begun.get(event.track_id) if event.type == "end" else None
        return NewEvent(
            CAMERA_TRACK.at(self._bus.site, camera=event.camera),
            partial(_with_id, event),
            opens=event.type == "start",
            closes=None if begun is None else begun.event_id,
        )

    def start(self) -> None:
        """Begin to hand over what is reported.

        Raises:
            TransientError: the outbox cannot be read.
        """
        self.resume()
        self._thread.start()

    def resume(self) -> None:
        """Find what a life of this process before has begun, and nobody has ended.

        Raises:
            TransientError: the outbox cannot be read.
        """
        for event_id, start in self._bus.open_events(CAMERA_TRACK):
            if isinstance(start, TrackEvent):
                self._begun[start.track_id] = _Begun(start.camera, event_id, start)

    def close(self) -> None:
        """Try a last time."""
        self._stop.set()
        self._thread.join(_JOIN_S)
        self.flush()

    def _flush_once(self) -> None:
        self._clock.wait(self._stop, _FLUSH_EACH_S)
        self.flush()

    def _keep(self, watch: CameraWatch, at: datetime, *, at_once: bool) -> None:
        now_s = self._clock.monotonic_s()
        kept = self._kept.get(watch.camera)
        if kept is not None and not at_once and now_s - kept.said_s < _OPEN_EACH_S:
            return
        known = watch.memory(at.timestamp())
        if kept is not None and msgspec.structs.replace(kept.known, at=known.at) == known:
            return
        self._bus.publish(CAMERA_TRACK_OPEN.at(self._bus.site, camera=watch.camera), known)
        with self._lock:
            self._kept[watch.camera] = _Kept(known, now_s)


def _with_id(event: TrackEvent, event_id: str) -> TrackEvent:
    return msgspec.structs.replace(event, id=event_id)


def _event(
    camera: str, change: TrackChange, at: datetime, *, worker: str, seq: int, model: ModelRef | None
) -> TrackEvent:
    track = change.track
    return TrackEvent(
        id="",
        track_id=track.track_id,
        camera=camera,
        type=change.type,
        label=track.label,
        started_at=moment(track.started_s),
        at=at,
        score=round(track.score, 4),
        box=track.box,
        path=tuple(_point(step) for step in _thinned(track)),
        zones=tuple(track.zones),
        dwell_s={zone: round(spent_s, 3) for zone, spent_s in track.dwell_s.items()},
        speed=round(track.speed, 4),
        still=track.still_since_s is not None,
        frame_seq=seq,
        worker=worker,
        model=model,
        ended=change.ended,
    )


def _thinned(track: Track) -> list[Step]:
    """Some places of its path, the first and the last included."""
    path = track.path
    if len(path) <= _PATH_POINTS:
        return list(path)
    last = _PATH_POINTS - 1
    return [path[place * (len(path) - 1) // last] for place in range(_PATH_POINTS)]


def _point(step: Step) -> PathPoint:
    x, y = step.foot
    return PathPoint(at=moment(step.at_s), x=round(min(1.0, max(0.0, x)), 4), y=round(min(1.0, max(0.0, y)), 4))
