"""The worker: frames in, detections and escalations out.

The bus's thread puts each frame into the mailbox; one thread takes the newest frame of the cameras that wait longest,
decodes them, runs the model, publishes the detections and asks the rules.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from broker import Bus, Delivery, Figures, Frame
from broker.messages import Detection, Detections, FrameMeta
from broker.topics import CAMERA_DETECTIONS, CAMERA_FRAME
from config import BadPayloadError, Clock, Supervised, SystemClock, TransientError, get_logger
from config.settings import DetectorSettings
from detector.backends import Backend, Prepared
from detector.decoding import Outputs, to_detections
from detector.escalate import Escalator
from detector.mailbox import LatestMailbox
from detector.pictures import Picture, read_picture
from detector.rules import PresenceWatch

__all__ = ["Worker"]

_TAKE_TIMEOUT_S = 0.25
"""How soon a stopped worker notices, and an outbox with room again is tried."""
_FINISH_S = 5.0
_CAMERAS_MAX = 1000
"""Cameras that one worker knows. Far more than it can score; a client that invents names must not fill the memory."""
_CAMERAS_REPORTED = 50
"""Cameras whose drops are named in the health report, which is at most 64 kB."""


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A frame as it came.

    Attributes:
        topic: where it came.
        received_at: on this machine's clock.
        received_s: monotonic seconds of the same moment.
        delay_s: how much longer than usual it was on its way.
    """

    frame: Frame
    topic: str
    received_at: datetime
    received_s: float
    delay_s: float


@dataclass(frozen=True, slots=True)
class _Readable:
    """A frame that is worth scoring: decoded, and as the model takes it."""

    arrival: _Arrival
    picture: Picture
    prepared: Prepared


@dataclass(frozen=True, slots=True)
class _Inference:
    """When a batch was in the model."""

    started_at: datetime
    took_ms: float
    batch: int


class Worker:
    """Scores the frames of every camera of a site.

    Frames that are older than `frame_age_max_s`, or than their own end (`expires_at`), when they reach the model are
    dropped and counted. A frame's age is what it waited here plus what it took longer on its way than the camera's
    other frames (:mod:`broker.freshness`), and its own limit is the time between its capture and its end, so that a
    producer whose clock is wrong is scored like any other. Frames that nobody wants scored (`detect` is false) are
    left alone, and counted.

    Concurrency: `start` and `close` belong to one thread; `figures` may be called from any.

    Args:
        bus: with an outbox; started after this object, or frames that come before are missed.
        backend: the model; used from the worker's thread only.
        settings: thresholds, limits and rules.
        clock: time.
        on_fatal: called with the error after which nothing more can be scored.
    """

    def __init__(
        self,
        bus: Bus,
        backend: Backend,
        settings: DetectorSettings,
        *,
        clock: Clock | None = None,
        on_fatal: Callable[[Exception], None] | None = None,
    ) -> None:
        self._bus = bus
        self._backend = backend
        self._settings = settings
        self._clock: Clock = clock or SystemClock()
        self._log = get_logger(origin=bus.origin)
        self._batch_max = min(settings.batch_max, backend.batch_max)
        self._rules = [PresenceWatch(name, rule) for name, rule in settings.rules.items()]
        self._mailbox = LatestMailbox[_Arrival]()
        self._cameras: set[str] = set()
        self._stale: Counter[str] = Counter()
        self._stale_lock = threading.Lock()
        self._failed = 0
        self._unwanted = 0
        self._scored = 0
        self._batches = 0
        self._rules_paused = 0
        self._escalator = Escalator(
            bus, backend.model, evidence_bytes_max=settings.evidence_bytes_max, clock=self._clock
        )
        self._stop = threading.Event()
        self._thread = Supervised("scores", self._score_once, stop=self._stop, on_fatal=on_fatal, clock=self._clock)

    def start(self) -> None:
        """Ask for frames and begin to score."""
        self._bus.subscribe(CAMERA_FRAME, self._on_frame)
        self._thread.start()

    def close(self) -> None:
        """Take no more frames, score those that wait, for at most 5 s, and end."""
        self._mailbox.close()
        deadline_s = self._clock.monotonic_s() + _FINISH_S
        pause = threading.Event()
        while len(self._mailbox) and self._clock.monotonic_s() < deadline_s:
            self._clock.wait(pause, 0.01)
        self._stop.set()
        if self._thread.join(_FINISH_S):
            self._escalator.close()

    def figures(self) -> Figures:
        """Queues, drops and counts for the health report."""
        replaced = self._mailbox.dropped()
        with self._stale_lock:
            stale = self._stale.copy()
        by_camera = (replaced + stale).most_common(_CAMERAS_REPORTED)
        return Figures(
            queues={"frames": len(self._mailbox), "escalations_held": self._escalator.held},
            drops={
                "frames_replaced": replaced.total(),
                "frames_late": stale.total(),
                "frames_failed": self._failed,
            },
            counts={
                "frames_scored": self._scored,
                "frames_unwanted": self._unwanted,
                "batches": self._batches,
                "escalations": self._escalator.raised,
                "rules_paused": self._rules_paused,
                **{f"frames_dropped.{camera}": count for camera, count in by_camera},
            },
        )

    # --- on the bus's thread ------------------------------------------------------------------------------------

    def _on_frame(self, delivery: Delivery) -> None:
        frame = delivery.content
        if not isinstance(frame, Frame):
            return
        camera = delivery.topic.camera
        reason = self._refusal(camera, frame.meta.camera)
        if reason is not None:
            self._bus.reject(str(delivery.topic), reason, len(frame.jpeg))
            return
        if not frame.meta.detect:
            self._unwanted += 1
            return
        now_s = self._clock.monotonic_s()
        arrival = _Arrival(frame, str(delivery.topic), delivery.received_at, now_s, delivery.delay_s)
        self._mailbox.put(camera, arrival, len(frame.jpeg))

    def _refusal(self, camera: str, claimed: str) -> str | None:
        """Why a frame of this topic is not taken; None when it is."""
        if claimed != camera:
            return f"its metadata says camera {claimed[:64]!r}"
        if camera not in self._cameras and len(self._cameras) >= _CAMERAS_MAX:
            return f"this worker knows {_CAMERAS_MAX} cameras already: restart it if their names have changed"
        self._cameras.add(camera)
        return None

    # --- on the worker's thread ---------------------------------------------------------------------------------

    def _score_once(self) -> None:
        self._escalator.flush()
        arrivals = self._mailbox.take(self._batch_max, _TAKE_TIMEOUT_S)
        batch = [readable for arrival in arrivals if (readable := self._read(arrival)) is not None]
        if batch:
            self._score(batch)

    def _read(self, arrival: _Arrival) -> _Readable | None:
        meta = arrival.frame.meta
        age_s = arrival.delay_s + self._clock.monotonic_s() - arrival.received_s
        if age_s > _age_max_s(meta, self._settings.frame_age_max_s):
            with self._stale_lock:
                self._stale[meta.camera] += 1
            self._log.warning("frame.stale", camera=meta.camera, seq=meta.seq, age_s=round(age_s, 2))
            return None
        try:
            picture = read_picture(arrival.frame)
        except BadPayloadError as error:
            self._bus.reject(arrival.topic, error.reason, error.size_bytes)
            return None
        return _Readable(arrival, picture, self._backend.prepare(picture))

    def _score(self, batch: Sequence[_Readable]) -> None:
        started_at, started_s = self._clock.now(), self._clock.monotonic_s()
        try:
            results = self._backend.infer([readable.prepared for readable in batch])
        except TransientError:
            self._failed += len(batch)
            raise
        took_ms = (self._clock.monotonic_s() - started_s) * 1000
        inference = _Inference(started_at, round(took_ms, 3), len(batch))
        self._batches += 1
        found = [self._publish(readable, outputs, inference) for readable, outputs in zip(batch, results, strict=True)]
        for readable, detections in zip(batch, found, strict=True):
            self._ask_rules(readable, detections)

    def _publish(self, readable: _Readable, outputs: Outputs, inference: _Inference) -> tuple[Detection, ...]:
        backend, meta = self._backend, readable.arrival.frame.meta
        found = backend.decode(outputs, readable.prepared)
        detections = to_detections(found, backend.labels, meta.width, meta.height)
        message = Detections(
            camera=meta.camera,
            frame_seq=meta.seq,
            worker=self._bus.origin,
            model=backend.model,
            width=meta.width,
            height=meta.height,
            captured_at=meta.captured_at,
            received_at=readable.arrival.received_at,
            infer_started_at=inference.started_at,
            infer_ms=inference.took_ms,
            batch=inference.batch,
            published_at=self._clock.now(),
            detections=detections,
        )
        self._bus.publish(CAMERA_DETECTIONS.at(self._bus.site, camera=meta.camera), message)
        self._scored += 1
        return detections

    def _ask_rules(self, readable: _Readable, detections: Sequence[Detection]) -> None:
        meta = readable.arrival.frame.meta
        for rule in self._rules:
            if self._escalator.full:
                self._rules_paused += 1
                continue
            firing = rule.feed(meta.camera, meta.captured_at.timestamp(), detections)
            if firing is not None:
                self._escalator.escalate(firing, meta, readable.picture)


def _age_max_s(meta: FrameMeta, otherwise_s: float) -> float:
    if meta.expires_at is None:
        return otherwise_s
    return min(otherwise_s, (meta.expires_at - meta.captured_at).total_seconds())
