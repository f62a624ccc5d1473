"""Fake alarms of one camera that somebody ordered, marked as such end to end: they go the way that a real one goes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal, get_args

import msgspec

from broker import Bus
from broker.messages import Escalation, Evidence
from broker.topics import CAMERA_ESCALATION
from config import BacklogFullError, BadPayloadError, Clock, TransientError, get_logger
from edge.orders import Answer

__all__ = ["SEVERITIES", "Drills", "Severity"]

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)

_WAIT_S = 5.0
"""For a picture. A camera that is read with keyframes only may need some seconds; then the alarm goes without."""

GiveAnswer = Callable[[Answer], None]


class Drills:
    """Raises them, each with the next picture where there is one to be seen.

    Concurrency: may be called from any thread.

    Args:
        bus: with an outbox.
        camera: the camera's name.
        clock: time.
    """

    def __init__(self, bus: Bus, camera: str, *, clock: Clock) -> None:
        self._bus = bus
        self._camera = camera
        self._clock = clock
        self._topic = CAMERA_ESCALATION.at(bus.site, camera=camera, origin=bus.origin)
        self._lock = threading.Lock()
        self._waiting: list[tuple[float, Severity, GiveAnswer]] = []
        self._log = get_logger(camera=camera)

    @property
    def waiting(self) -> bool:
        """Whether the next picture is wanted."""
        return bool(self._waiting)

    def ask(self, severity: Severity, answer: GiveAnswer, *, with_picture: bool) -> None:
        """Raise one, at once or with the next picture."""
        if with_picture:
            with self._lock:
                self._waiting.append((self._clock.monotonic_s() + _WAIT_S, severity, answer))
        else:
            answer(self._raise(severity, None))

    def show(self, picture: Evidence | None, *, seq: int) -> None:
        """Raise what waits with this picture."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for _, severity, answer in waiting:
            answer(self._raise(severity, picture, seq=seq))

    def give_up(self, now_s: float) -> None:
        """Raise without a picture what has waited for too long."""
        with self._lock:
            late = [waiting for waiting in self._waiting if now_s >= waiting[0]]
            self._waiting = [waiting for waiting in self._waiting if now_s < waiting[0]]
        for _, severity, answer in late:
            answer(self._raise(severity, None))

    def _raise(self, severity: Severity, picture: Evidence | None, *, seq: int = 0) -> Answer:
        now = self._clock.now()
        drill = Escalation(
            id="",
            camera=self._camera,
            rule="drill",
            kind="drill",
            severity=severity,
            summary=f"Drill at {self._camera}: a fake alarm, nothing has happened",
            label="drill",
            score=1.0,
            captured_at=now,
            raised_at=now,
            frame_seq=seq,
            worker=self._bus.origin,
            evidence=() if picture is None else (picture,),
            drill=True,
        )
        try:
            event_id = self._publish(drill)
        except BadPayloadError as error:
            if picture is None:
                return Answer({}, f"it could not be raised: {error}")
            return self._raise(severity, None, seq=seq)  # for a broker that takes little
        except (BacklogFullError, TransientError) as error:
            return Answer({}, f"it could not be raised: {error}")
        self._log.info("camera.drilled", event_id=event_id, pictures=len(drill.evidence))
        return Answer({"event_id": event_id})

    def _publish(self, drill: Escalation) -> str:
        return self._bus.publish_event(self._topic, lambda event_id: msgspec.structs.replace(drill, id=event_id))
