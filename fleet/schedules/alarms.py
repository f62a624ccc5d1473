"""Escalations about cameras themselves: through the outbox, so that none is lost, and with the picture."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from broker import Bus, Frame
from broker.messages import Escalation, Evidence
from broker.topics import CAMERA_ESCALATION
from config import BacklogFullError, BadPayloadError, Clock, TransientError, get_logger
from fleet.schedules.pictures import shrink

__all__ = ["CHECK_RULE", "REBOOT_RULE", "CameraAlarms"]

CHECK_RULE, REBOOT_RULE = "safety-check", "camera-reboot"
_LABEL = _KIND = "camera"
_PICTURE_BYTES_MAX = 150_000
_SUMMARY_MAX = 900
Severity = Literal["info", "warning", "critical"]


class CameraAlarms:
    """Raises them.

    Concurrency: may be used from any thread.

    Args:
        bus: with an outbox.
        clock: time.
    """

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock
        self._log = get_logger()
        self.raised = 0

    def escalate(self, camera: str, rule: str, severity: Severity, summary: str, frame: Frame | None) -> bool:
        """Tell people; on disk when this returns.

        Args:
            camera: that it is about.
            rule: what has found it.
            severity: how bad it is.
            summary: one sentence for a person.
            frame: its picture; None where there is none.

        Returns:
            Whether it is on disk; what the outbox refuses is said, and is raised again with the next check.
        """
        now = self._clock.now()
        escalation = Escalation(
            id="",
            camera=camera,
            rule=rule,
            kind=_KIND,
            severity=severity,
            summary=summary[:_SUMMARY_MAX],
            label=_LABEL,
            score=1.0,
            captured_at=now if frame is None else frame.meta.captured_at,
            raised_at=now,
            frame_seq=0 if frame is None else frame.meta.seq,
            worker=self._bus.origin,
            evidence=() if frame is None else _evidence(frame),
        )
        topic = CAMERA_ESCALATION.at(self._bus.site, camera=camera, origin=self._bus.origin)
        try:
            event_id = self._bus.publish_event(topic, lambda given: msgspec.structs.replace(escalation, id=given))
        except (BacklogFullError, BadPayloadError, TransientError) as error:
            self._log.error("check.unescalated", camera=camera, error=str(error))
            return False
        self.raised += 1
        self._log.info("escalation.raised", camera=camera, event_id=event_id, rule=rule)
        return True


def _evidence(frame: Frame) -> tuple[Evidence, ...]:
    small = shrink(frame.jpeg, _PICTURE_BYTES_MAX)
    if small is None:
        return ()
    jpeg, width, height = small
    sha256 = hashlib.sha256(jpeg).hexdigest()
    return (Evidence(content_type="image/jpeg", sha256=sha256, width=width, height=height, data=jpeg),)
