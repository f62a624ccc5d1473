"""From what a model says of a frame to what the bus hears: scores, objects, escalations."""

from __future__ import annotations

from collections.abc import Callable

from broker import Bus, Distribution
from broker.messages import Detection, Detections
from broker.topics import CAMERA_DETECTIONS
from config import Clock, TransientError
from detector.cameras import Cameras, WatchedCamera
from detector.decoding import to_detections
from detector.escalate import Escalator
from detector.flow import Scored
from detector.ownership import OwnedCameras
from detector.reading import read_boxes
from detector.slot import BackendSlot
from detector.tallies import Tallies
from detector.told import with_told
from detector.track_reports import TrackReports

__all__ = ["Publisher"]

_UNREADABLE = (ArithmeticError, LookupError, TypeError, ValueError)
"""What reading a model's numbers raises when they are not what its layout says."""


class Publisher:
    """Publishes what the model says of one frame after the other.

    Concurrency: one thread; counts may be read from any.

    Args:
        bus: with an outbox.
        slot: hears of results that cannot be read.
        owned: whether a camera is still this worker's.
        cameras: what it remembers of each.
        reports: tells of objects.
        escalator: raises escalations.
        tallies: counts.
        on_firing: called with a camera that raised an escalation.
        min_score: boxes below it are left out.
        nms_iou: boxes of one label that overlap more are one object.
        clock: time.

    Attributes:
        scored: frames whose scores went out.
        handed_over: of these, those of cameras that were given away meanwhile: they belong to no object or rule.
        unreadable: frames of which nobody knows what the model said.
        rules_paused: frames of which no rule was asked, since what it says could not be kept.
        frame_age: how old frames were when their scores went out.
        escalated: how long after a frame had come its escalations were raised.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        slot: BackendSlot,
        owned: OwnedCameras,
        cameras: Cameras,
        reports: TrackReports,
        escalator: Escalator,
        tallies: Tallies,
        on_firing: Callable[[str], None],
        min_score: float,
        nms_iou: float,
        clock: Clock,
    ) -> None:
        self._bus = bus
        self._slot = slot
        self._owned = owned
        self._cameras = cameras
        self._reports = reports
        self._escalator = escalator
        self._tallies = tallies
        self._on_firing = on_firing
        self._min_score = min_score
        self._nms_iou = nms_iou
        self._clock = clock
        self.scored = 0
        self.handed_over = 0
        self.unreadable = 0
        self.rules_paused = 0
        self.frame_age = Distribution()
        self.escalated = Distribution()

    def flush(self) -> None:
        """Hand over what was held back."""
        self._escalator.flush()
        self._escalator.show()

    def publish(self, scored: Scored) -> None:
        """Publish one frame's scores, its objects, and what people should know.

        Raises:
            TransientError: what the model said cannot be read.
        """
        arrival = scored.readable.arrival
        found = self._read(scored)
        watched = self._cameras.of(arrival.camera)
        if watched is None:
            self._hand_over(scored, found)
            return
        with watched.turn:
            if watched.is_ours and self._owned.epoch(arrival.camera) == arrival.epoch:
                self._tell(watched, scored, found)
            else:
                self._hand_over(scored, found)

    def _hand_over(self, scored: Scored, found: tuple[Detection, ...]) -> None:
        """The last scores of a camera that somebody else has now, who had no part of this frame."""
        self.handed_over += 1
        self._publish_scores(scored, found)

    def _publish_scores(self, scored: Scored, detections: tuple[Detection, ...]) -> None:
        camera = scored.readable.arrival.camera
        self._bus.publish(CAMERA_DETECTIONS.at(self._bus.site, camera=camera), self._message(scored, detections))
        self.scored += 1
        tracer, arrival = self._bus.tracer, scored.readable.arrival
        if tracer.on:
            tracer.note(
                "score",
                camera,
                arrival.frame.meta.captured_at,
                started_at=arrival.received_at,
                of=self._bus.origin,
                parent=("capture", ""),
                attributes={
                    "vigil.frame_seq": arrival.frame.meta.seq,
                    "vigil.model": scored.readable.backend.model.name,
                    "vigil.infer_ms": scored.inference.took_ms,
                    "vigil.detections": len(detections),
                },
            )

    def _tell(self, watched: WatchedCamera, scored: Scored, found: tuple[Detection, ...]) -> None:
        arrival, model = scored.readable.arrival, scored.readable.backend.model
        meta, camera = arrival.frame.meta, arrival.camera
        ask_rules = not self._escalator.full
        self.rules_paused += not ask_rules
        look = watched.watch.look(meta, found, ask_rules=ask_rules)
        watched.seen_s, watched.tracks = meta.captured_at.timestamp(), watched.watch.tracks
        self._publish_scores(scored, look.detections)
        age_s = arrival.age_s(self._clock.monotonic_s())
        self._tallies.scored(camera, age_s)
        self.frame_age.note(age_s)
        for firing in look.firings:
            self._escalator.escalate(firing, arrival.frame, model, picture=scored.readable.picture)
            self.escalated.note(self._clock.monotonic_s() - arrival.received_s)
            self._on_firing(camera)
        # After it: what another worker goes on with never says of an escalation that is not on the disk yet.
        self._reports.report(watched.watch, look, meta, model)
        self._escalator.show()

    def _read(self, scored: Scored) -> tuple[Detection, ...]:
        """Boxes of the whole and its parts, together."""
        readable = scored.readable
        backend, meta = readable.backend, readable.arrival.frame.meta
        try:
            found = read_boxes(
                backend,
                (readable.whole, *readable.parts),
                scored.outputs,
                readable.regions,
                decoded_px=readable.size_px,
                frame_px=(meta.width, meta.height),
                nms_iou=self._nms_iou,
            )
            detections = to_detections(found, backend.labels, meta.width, meta.height)
        except _UNREADABLE as error:
            self.unreadable += 1
            self._slot.note_failure(backend)
            raise TransientError(f"what {backend.model.name} says of a frame cannot be read: {error}") from error
        if meta.people is None:
            return detections
        return with_told(detections, meta.people, min_score=self._min_score, width_px=meta.width, height_px=meta.height)

    def _message(self, scored: Scored, detections: tuple[Detection, ...]) -> Detections:
        readable, inference = scored.readable, scored.inference
        arrival = readable.arrival
        meta = arrival.frame.meta
        return Detections(
            camera=meta.camera,
            frame_seq=meta.seq,
            worker=self._bus.origin,
            model=readable.backend.model,
            width=meta.width,
            height=meta.height,
            captured_at=meta.captured_at,
            received_at=arrival.received_at,
            infer_started_at=inference.started_at,
            infer_ms=inference.took_ms,
            batch=inference.batch,
            published_at=self._clock.now(),
            epoch=arrival.epoch,
            regions=len(readable.regions),
            people_by=meta.people.model if meta.people is not None else None,
            detections=detections,
        )
