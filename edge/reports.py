"""What one camera says of movement."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec

from broker import Bus, Delivery, Topic
from broker.messages import MotionEvent, MotionTrend, OpenEvents
from broker.topics import CAMERA_MOTION, CAMERA_MOTION_ACTIVE, CAMERA_MOTION_OPEN, CAMERA_MOTION_TREND, TopicSpec
from config import BacklogFullError, Clock, TransientError, get_logger
from edge.modes import MovementStep
from edge.motion.detector import BoxXyxy

__all__ = ["MotionReports", "rounded"]

_BOX_DIGITS = 4
"""Of a box's fractions: a ten-thousandth of a 4K picture is under half a pixel, and more digits double the message."""
_REFRESH_S = 10.0
"""How often it is said again that something moves."""
_ACTIVE_EXPIRES_S = 3 * _REFRESH_S
"""A node that died and never comes back says ON no longer than this, where the broker has MQTT 5."""
_OWED_MAX = 100
"""Ends that the outbox did not take, and that are tried again."""
_OPEN_EXPIRES_S = 86_400.0
"""What a dead node left open is there for whoever takes its camera over within a day."""


class MotionReports:
    """Publishes one camera's movements.

    A movement's id is the event id of its start. Until its end it stands in the outbox on disk, for this node's next
    process, and retained in ``motion/open``, for another node that takes the camera over. Whoever comes ends what is
    left open, once: what this node's own outbox has raised and no longer lists has its end already.

    Concurrency: what the bus delivers comes on the bus's thread. `begin` and `leave` are called while the camera has no
    thread, every other method on the camera's.

    Args:
        bus: with an outbox.
        camera: the camera's name.
        clock: time.

    Attributes:
        events_refused: motion events that a full outbox, or its full disk, did not take.
    """

    def __init__(self, bus: Bus, camera: str, *, clock: Clock) -> None:
        self._bus = bus
        self._camera = camera
        self._clock = clock
        self._log = get_logger(camera=camera)
        self._start: MotionEvent | None = None
        self._left_open: dict[str, MotionEvent] = {}
        self._recovered = False
        self._is_overtaken = False
        self._said_active_s = 0.0
        self._owed: deque[MotionEvent] = deque(maxlen=_OWED_MAX)
        self._paid_s = 0.0
        self.events_refused = 0

    def begin(self) -> None:
        """Say that nothing moves, whatever an earlier process left behind.

        What is retained is delivered before anything is published over it.

        Raises:
            TransientError: the outbox cannot be read.
        """
        for motion_id, start in self._bus.open_events(CAMERA_MOTION, camera=self._camera):
            if isinstance(start, MotionEvent):
                self._left_open[motion_id] = start
        self._bus.subscribe(CAMERA_MOTION_OPEN, self._on_open, camera=self._camera)
        self._say_active(moving=False)

    def be_overtaken(self) -> None:
        """Another node watches the camera already, and has ended what moved here: say nothing of it any more."""
        self._is_overtaken = True

    def leave(self) -> None:
        """Leave the camera's topics to whoever watches it from now on."""
        self._bus.unsubscribe(CAMERA_MOTION_OPEN, camera=self._camera)
        for spec in (CAMERA_MOTION_ACTIVE, CAMERA_MOTION_OPEN, CAMERA_MOTION_TREND):
            self._bus.disown(self._topic(spec))

    def motion(
        self,
        step: MovementStep,
        *,
        at: datetime,
        seq: int,
        score: float = 0.0,
        boxes: Sequence[BoxXyxy] = (),
        zones: tuple[str, ...] = (),
        ended: Literal["quiet", "interrupted"] = "quiet",
    ) -> MotionEvent | None:
        """Say that something begins to move, moves on, or does so no longer; `ended` says why.

        Returns:
            What was said; None where the outbox did not take it.
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
            boxes=rounded(boxes),
            zones=zones,
            frame_seq=seq,
            ended=ended if step == "end" else None,
        )
        if step == "start":
            self._start = said = self._publish_event(event)
            self._say_active(moving=True)
            return said
        said = self._publish_event(event) if start is not None else None  # else a full outbox refused its start
        if step == "end":
            self._start = None
            self._say_active(moving=False)
        return said

    def trend(self, trend: MotionTrend) -> None:
        """Say how much moved in the last hours."""
        self._bus.publish(self._topic(CAMERA_MOTION_TREND), trend)

    def refresh(self) -> None:
        """Say again that something moves, before it expires, and what the outbox did not take; call it often."""
        now_s = self._clock.monotonic_s()
        if self._start is not None and now_s - self._said_active_s >= _REFRESH_S:
            self._say_active(moving=True)
        if self._owed and now_s - self._paid_s >= _REFRESH_S:
            self._paid_s = now_s
            self._publish_event(self._owed.popleft(), again=True)

    def interrupt(self, seq: int) -> MotionEvent | None:
        """End what moves, because nobody watches it any longer, and say what the outbox did not take before.

        What it does not take now either, the next process finds open there.

        Args:
            seq: the last picture's.

        Returns:
            What was said, where something moved.
        """
        ended = None
        if self._is_overtaken:
            self._start = None
        if self._start is not None:
            ended = self.motion("end", at=self._clock.now(), seq=seq, ended="interrupted")
        for _ in range(len(self._owed)):
            self._publish_event(self._owed.popleft(), again=True)
        return ended

    def _publish_event(self, event: MotionEvent, *, again: bool = False) -> MotionEvent | None:
        """Put it into the outbox, and return it with its id; None when there is no room, and an end is tried again."""

        def named(event_id: str) -> MotionEvent:
            return msgspec.structs.replace(event, id=event_id, motion_id=event.motion_id or event_id)

        try:
            return named(
                self._bus.publish_event(
                    self._topic(CAMERA_MOTION),
                    named,
                    opens=event.type == "start",
                    closes=event.motion_id if event.type == "end" else None,
                )
            )
        except (BacklogFullError, TransientError) as error:
            self.events_refused += not again
            self._log.error("motion.refused", error=str(error))
            if event.type == "end":
                self._owed.append(event)
            return None

    def _say_active(self, *, moving: bool) -> None:
        start = self._start
        open_now = OpenEvents(
            camera=self._camera,
            at=start.at if start else self._clock.now(),
            ids=(start.id,) if start else (),
        )
        self._said_active_s = self._clock.monotonic_s()
        self._bus.publish(
            self._topic(CAMERA_MOTION_ACTIVE),
            "ON" if moving else "OFF",
            expires_s=_ACTIVE_EXPIRES_S if moving else None,
        )
        self._bus.publish(
            self._topic(CAMERA_MOTION_OPEN), open_now, expires_s=_OPEN_EXPIRES_S if open_now.ids else None
        )

    def _on_open(self, delivery: Delivery) -> None:
        """End the movements that an earlier process left open, once it is known what the broker kept.

        What was kept comes before this process's own word, which the broker sends back. A broker that forgot sends
        only that. Runs on the bus's thread.
        """
        if self._recovered or not isinstance(delivery.content, OpenEvents):
            return
        self._recovered = True
        kept = delivery.content if delivery.retained else OpenEvents(camera=self._camera, at=self._clock.now())
        for event in self._left_open.values():
            # Who wrote later than its start and does not name it has ended it: another node had the camera since.
            if event.id in kept.ids or not delivery.retained or kept.at <= event.started_at:
                self._interrupt(event.id, event.started_at, event.frame_seq)
        for motion_id in kept.ids:
            if motion_id not in self._left_open and not self._bus.has_raised(motion_id):
                self._interrupt(motion_id, kept.at, 0)
        self._left_open.clear()

    def _interrupt(self, motion_id: str, started_at: datetime, seq: int) -> None:
        self._log.info("motion.left_open", motion=motion_id)
        self._publish_event(
            MotionEvent(
                id="",
                motion_id=motion_id,
                camera=self._camera,
                type="end",
                started_at=started_at,
                at=self._clock.now(),
                frame_seq=seq,
                ended="interrupted",
            )
        )

    def _topic(self, spec: TopicSpec) -> Topic:
        return spec.at(self._bus.site, camera=self._camera)


def rounded(boxes: Sequence[BoxXyxy]) -> tuple[BoxXyxy, ...]:
    """Boxes with as many digits as they are worth."""
    return tuple(
        (round(x1, _BOX_DIGITS), round(y1, _BOX_DIGITS), round(x2, _BOX_DIGITS), round(y2, _BOX_DIGITS))
        for x1, y1, x2, y2 in boxes
    )
