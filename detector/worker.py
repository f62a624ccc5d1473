"""The worker: frames of its cameras in, detections, objects and escalations out.

The bus's thread puts each frame into the mailbox; three threads make frames ready, run the model and publish
(:mod:`detector.pipeline`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping

from broker import Bus, Delivery, Figures, Frame
from broker.messages import FrameMeta
from broker.topics import CAMERA_FRAME
from config import Clock, SystemClock
from config.settings import Settings
from detector.batching import ArrivalRate, BatchTimes, parts_budget
from detector.camera_settings import KnownCameras
from detector.cameras import Cameras
from detector.escalate import Escalator
from detector.flow import Arrival
from detector.mailbox import LatestMailbox
from detector.ownership import CameraScores, OwnedCameras, OwnsAll
from detector.pipeline import Pipeline
from detector.preparing import Preparer
from detector.publishing import Publisher
from detector.regions import Region
from detector.slot import BackendSlot
from detector.tallies import Tallies
from detector.track_reports import TrackReports

__all__ = ["Worker"]

_FINISH_S = 5.0
_PREFERRED_S = 60.0
"""How long a camera comes first after an escalation: somebody looks at it now."""
_CAMERAS_REPORTED = 50
"""Cameras whose drops are named in the health report, which is at most 64 kB."""
_ID_BYTES = 8


class Worker:
    """Scores the frames of the cameras that are its own.

    Frames that are older than `frame_age_max_s`, or than their own end (`expires_at`), when they reach the model are
    dropped and counted. A frame's age is what it waited here plus what it took longer on its way than the camera's
    other frames (:mod:`broker.freshness`), and its own limit is the time between its capture and its end, so that a
    producer whose clock is wrong is scored like any other. Frames that nobody wants scored (`detect` is false) are
    left alone, and counted.

    Concurrency: `start`, `drain` and `close` belong to one thread; the rest may be called from any.

    Args:
        bus: with an outbox; started after this object, or frames that come before are missed.
        slot: the model in use.
        settings: the site's: of the detector, and of cameras where no document on the bus says otherwise.
        owned: which cameras are its own.
        times: how long the model takes, as measured so far.
        clock: time.
        on_fatal: called with the error after which nothing more can be scored.
    """

    def __init__(
        self,
        bus: Bus,
        slot: BackendSlot,
        settings: Settings,
        owned: OwnedCameras,
        *,
        times: BatchTimes | None = None,
        clock: Clock | None = None,
        on_fatal: Callable[[Exception], None] | None = None,
    ) -> None:
        mine = settings.detector
        self._bus = bus
        self._settings = mine
        self._owned = owned
        self._clock: Clock = clock or SystemClock()
        self._mailbox = LatestMailbox[Arrival](min_rate_fps=mine.min_rate_fps, clock=self._clock)
        self._tallies = Tallies(self._clock.monotonic_s())
        self._rate = ArrivalRate()
        self._unwanted = 0
        self._unowned = 0
        self._reports = TrackReports(bus, clock=self._clock)
        self._known = KnownCameras(settings, bus, self._on_change)
        self._cameras = Cameras(bus, mine, self._known.of, self._reports, new_id=_new_id)
        self._escalator = Escalator(bus, evidence_bytes_max=mine.evidence_bytes_max, clock=self._clock)
        self._publisher = Publisher(
            bus,
            slot=slot,
            owned=owned,
            cameras=self._cameras,
            reports=self._reports,
            escalator=self._escalator,
            tallies=self._tallies,
            on_firing=lambda camera: self._mailbox.prefer(camera, _PREFERRED_S),
            min_score=mine.min_score,
            nms_iou=mine.nms_iou,
            clock=self._clock,
        )
        self._pipeline = Pipeline(
            self._mailbox,
            Preparer(bus, slot, self._plan, self._tallies, age_max_s=mine.frame_age_max_s, clock=self._clock),
            slot,
            times=times or BatchTimes(),
            publish=self._publisher.publish,
            look_after=self._publisher.flush,
            batch_max=mine.batch_max,
            age_max_s=mine.frame_age_max_s,
            clock=self._clock,
            on_fatal=on_fatal,
        )

    def start(self) -> None:
        """Ask for what is its own, and begin to score."""
        self._known.start()
        self._cameras.start()
        self._reports.start()
        self._pipeline.start()
        self._owned.start(self._on_gain, self._on_loss, self._on_claim)
        if isinstance(self._owned, OwnsAll):
            self._bus.subscribe(CAMERA_FRAME, self._on_frame)

    def drain(self, timeout_s: float) -> None:
        """Give the cameras to other workers within so many seconds, and score them until they are taken."""
        self._owned.drain(timeout_s)

    def close(self) -> None:
        """Take no more frames, score those that wait, for at most 5 s, and end."""
        ended = self._pipeline.close(_FINISH_S)
        self._cameras.end_all()
        self._owned.close()
        self._reports.close()
        if ended:
            self._escalator.close()

    def camera_scores(self) -> Mapping[str, CameraScores]:
        """How each camera does since the last call."""
        return self._tallies.report(self._clock.monotonic_s(), self._mailbox.dropped())

    def figures(self) -> Figures:
        """Queues, drops and counts for the health report."""
        replaced, late = self._mailbox.dropped(), self._tallies.late_by_camera()
        by_camera = (replaced + late).most_common(_CAMERAS_REPORTED)
        publisher, pipeline, owned = self._publisher, self._pipeline, self._owned.figures()
        return Figures(
            queues={
                **pipeline.queues(),
                "escalations_held": self._escalator.held,
                "track_events_held": self._reports.held,
                **owned.queues,
            },
            drops={
                "frames_replaced": replaced.total(),
                "frames_late": late.total(),
                "frames_failed": pipeline.failed + publisher.unreadable,
                "frames_unowned": self._unowned,
                "track_events_lost": self._reports.lost,
                **owned.drops,
            },
            counts={
                "frames_scored": publisher.scored,
                "frames_handed_over": publisher.handed_over,
                "frames_unwanted": self._unwanted,
                "batches": pipeline.batches,
                "escalations": self._escalator.raised,
                "track_events": self._reports.told,
                "rules_paused": publisher.rules_paused,
                **owned.counts,
                **{f"frames_dropped.{camera}": count for camera, count in by_camera},
            },
            distributions={
                "frame_age": publisher.frame_age,
                "inference": pipeline.inference,
                "score_to_escalation": publisher.escalated,
            },
        )

    # --- on the bus's thread ------------------------------------------------------------------------------------

    def _on_claim(self, camera: str) -> None:
        self._bus.subscribe(CAMERA_FRAME, self._on_frame, camera=camera)

    def _on_gain(self, camera: str, _epoch: int) -> None:
        self._cameras.gain(camera)

    def _on_loss(self, camera: str) -> None:
        self._bus.unsubscribe(CAMERA_FRAME, camera=camera)
        self._tallies.forget(camera)
        self._cameras.lose(camera)

    def _on_change(self, camera: str) -> None:
        self._cameras.renew(camera)

    def _on_frame(self, delivery: Delivery) -> None:
        frame = delivery.content
        if not isinstance(frame, Frame):
            return
        camera, claimed = delivery.topic.camera, frame.meta.camera
        if claimed != camera:
            reason = f"its metadata says camera {claimed[:64]!r}"
            self._bus.reject(str(delivery.topic), reason, len(frame.jpeg))
            return
        if not frame.meta.detect:
            self._unwanted += 1
            return
        epoch = self._owned.epoch(camera)
        if epoch is None:
            self._unowned += 1
            return
        now_s = self._clock.monotonic_s()
        self._rate.note(now_s)
        arrival = Arrival(frame, str(delivery.topic), delivery.received_at, now_s, delivery.delay_s, epoch)
        self._mailbox.put(camera, arrival, len(frame.jpeg))

    # --- on the thread that makes frames ready --------------------------------------------------------------------

    def _plan(self, meta: FrameMeta, input_px: tuple[int, int]) -> tuple[Region, ...]:
        """The parts of a frame for which there is time."""
        most = self._settings.regions.per_frame_max
        watched = self._cameras.of(meta.camera) if most else None
        if watched is None:
            return ()
        budget = parts_budget(self._rate.fps(self._clock.monotonic_s()), self._pipeline.picture_s, most)
        return watched.planner.plan(
            meta.captured_at.timestamp(),
            meta.width,
            meta.height,
            motion=meta.motion,
            tracks=watched.tracks,
            input_px=input_px,
            budget=budget,
        )


def _new_id() -> str:
    """The id of an object: unique over restarts and workers."""
    return secrets.token_hex(_ID_BYTES)
