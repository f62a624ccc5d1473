"""Everything that one camera says on the bus."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec

from broker import Bus, Delivery, Topic, encode_frame
from broker.messages import CameraState, FrameMeta, MotionEvent, OpenEvents
from broker.topics import CAMERA_FRAME, CAMERA_MOTION, CAMERA_MOTION_ACTIVE, CAMERA_MOTION_OPEN, CAMERA_STATE, TopicSpec
from config import BacklogFullError, BadPayloadError, Clock, TransientError, get_logger
from edge.modes import MovementStep
from edge.motion import BoxXyxy
from edge.source import CapturedFrame

__all__ = ["CameraReports", "Mode"]

Mode = Literal["idle", "motion"]

_BOX_DIGITS = 4
"""Of a box's fractions: a ten-thousandth of a 4K picture is under half a pixel, and more digits double the message."""
_TEXT_MAX = 1000


class CameraReports:
    """Publishes one camera's state, motion and frames.

    A movement's id is the event id of its start. It stands retained in ``motion/open`` until its end, so that after a
    crash the next process can tell the end that is missing.

    Concurrency: what the bus delivers comes on the bus's thread, every method is called on the camera's.

    Args:
        bus: with an outbox.
        camera: the camera's name.
        node: this machine's name.
        source: where it comes from, without credentials.
        clock: time.

    Attributes:
        frames_sent: frames handed to the bus.
        frames_unsent: wanted frames that found no connection, or were too large.
        events_refused: motion events that a full outbox, or its full disk, did not take.
    """

    def __init__(self, bus: Bus, camera: str, *, node: str, source: str, clock: Clock) -> None:
        self._bus = bus
        self._camera = camera
        self._node = node
        self._source = source
        self._clock = clock
        self._log = get_logger(camera=camera)
        self._start: MotionEvent | None = None
        self._recovered = False
        self._said: CameraState | None = None
        self.frames_sent = 0
        self.frames_unsent = 0
        self.events_refused = 0

    def begin(self) -> None:
        """Say that nothing moves and the camera is not there yet, whatever an earlier process left behind.

        Call it before the bus connects: what is retained is delivered before anything is published over it.
        """
        self._bus.subscribe(CAMERA_MOTION_OPEN, self._on_open, camera=self._camera)
        self._say_active(moving=False)
        self.state("offline")

    def state(
        self,
        state: Literal["online", "offline", "error"],
        *,
        mode: Mode = "idle",
        fps: float = 0.0,
        size_px: tuple[int, int] = (0, 0),
        error: str | None = None,
    ) -> None:
        """Say how the camera is, when that is news."""
        now = CameraState(
            camera=self._camera,
            state=state,
            node=self._node,
            at=self._clock.now(),
            mode=mode,
            fps=fps,
            width=size_px[0],
            height=size_px[1],
            source=self._source[:_TEXT_MAX],
            error=error and error[:_TEXT_MAX],
        )
        if self._said is None or msgspec.structs.replace(now, at=self._said.at) != self._said:
            self._said = now
            self._bus.publish(self._topic(CAMERA_STATE), now)

    def frame(
        self, frame: CapturedFrame, *, seq: int, mode: Mode, boxes: Sequence[BoxXyxy], quality: int
    ) -> str | None:
        """Send a frame.

        Returns:
            Why it could not be sent, when a person should hear of it.

        Raises:
            TransientError: it could not be encoded.
        """
        if not self._bus.connected:  # it would be dropped: encoding is the dearest thing that this thread does
            self.frames_unsent += 1
            return None
        meta = FrameMeta(
            camera=self._camera,
            node=self._node,
            seq=seq,
            captured_at=frame.captured_at,
            width=frame.width_px,
            height=frame.height_px,
            mode=mode,
            motion=_rounded(boxes),
        )
        try:
            self._bus.publish(self._topic(CAMERA_FRAME), encode_frame(frame.encode(quality), meta))
        except BadPayloadError as error:
            self.frames_unsent += 1
            self._log.warning("camera.frame_refused", error=error.reason)
            return f"a frame was not sent: {error.reason}"
        self.frames_sent += 1
        return None

    def motion(
        self,
        step: MovementStep,
        *,
        at: datetime,
        seq: int,
        score: float = 0.0,
        boxes: Sequence[BoxXyxy] = (),
        ended: Literal["quiet", "interrupted"] = "quiet",
    ) -> None:
        """Say that something begins to move, moves on, or does so no longer; `ended` says why.

        Raises:
            TransientError: the disk did not take it.
        """
        start = self._start
        event = MotionEvent(
            id="",
            motion_id=start.id if start else "",
            camera=self._camera,
            type=step,
            started_at=start.at if start else at,
            at=at,
            score=score,
            boxes=_rounded(boxes),
            frame_seq=seq,
            ended=ended if step == "end" else None,
        )
        if step == "start":
            self._recovered = True  # from here on, what stands open is this process's own
            self._start = self._publish_event(event)
            self._say_active(moving=True)
            return
        if step == "end":
            self._start = None
            self._say_active(moving=False)
        if start is not None:  # else a full outbox refused its start
            self._publish_event(event)

    def interrupt(self, seq: int) -> None:
        """End what moves, because nobody watches it any longer; `seq` is the last picture's.

        Raises:
            TransientError: the disk did not take it.
        """
        if self._start is not None:
            self.motion("end", at=self._clock.now(), seq=seq, ended="interrupted")

    def _publish_event(self, event: MotionEvent) -> MotionEvent | None:
        """Put it into the outbox, and return it with its id; None when there is no room."""

        def named(event_id: str) -> MotionEvent:
            return msgspec.structs.replace(event, id=event_id, motion_id=event.motion_id or event_id)

        try:
            return named(self._bus.publish_event(self._topic(CAMERA_MOTION), named))
        except (BacklogFullError, TransientError) as error:
            self.events_refused += 1
            self._log.error("motion.refused", error=str(error))
            return None

    def _say_active(self, *, moving: bool) -> None:
        start = self._start
        open_now = OpenEvents(
            camera=self._camera,
            at=start.at if start else self._clock.now(),
            ids=(start.id,) if start else (),
        )
        self._bus.publish(self._topic(CAMERA_MOTION_ACTIVE), "ON" if moving else "OFF")
        self._bus.publish(self._topic(CAMERA_MOTION_OPEN), open_now)

    def _on_open(self, delivery: Delivery) -> None:
        """End the movements that an earlier process left open. Runs on the bus's thread."""
        if not delivery.retained or self._recovered or not isinstance(delivery.content, OpenEvents):
            return
        self._recovered = True
        left = delivery.content
        for motion_id in left.ids:
            self._log.info("motion.left_open", motion=motion_id)
            self._publish_event(
                MotionEvent(
                    id="",
                    motion_id=motion_id,
                    camera=self._camera,
                    type="end",
                    started_at=left.at,
                    at=self._clock.now(),
                    ended="interrupted",
                )
            )

    def _topic(self, spec: TopicSpec) -> Topic:
        return spec.at(self._bus.site, camera=self._camera)


def _rounded(boxes: Sequence[BoxXyxy]) -> tuple[BoxXyxy, ...]:
    return tuple(
        (round(x1, _BOX_DIGITS), round(y1, _BOX_DIGITS), round(x2, _BOX_DIGITS), round(y2, _BOX_DIGITS))
        for x1, y1, x2, y2 in boxes
    )
