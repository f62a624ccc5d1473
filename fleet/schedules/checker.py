"""A safety check of a camera, from asking for a picture to the escalation."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

from broker import Bus, Frame
from broker.messages import CameraCheck, Finding
from broker.topics import CAMERA_CHECK
from config import BadPayloadError, Clock, PermanentError, TransientError, get_logger
from config.schedules import SafetyChecks
from fleet.schedules.alarms import CHECK_RULE, CameraAlarms
from fleet.schedules.checks import judge, judge_frozen
from fleet.schedules.facts import CameraFacts
from fleet.schedules.notes import AlarmNote, NoteBook
from fleet.schedules.pictures import Reference, References, read_look
from fleet.schedules.shots import Photographer

__all__ = ["Checker", "failures"]

Reason = Literal["schedule", "request"]
_PAUSES_S = (0.5, 2.0, 4.0)
"""Between pictures that should differ. A camera at rest whose encoder leaves out its noise sends the same picture until
its next keyframe; so only what is the same in all of them is frozen."""


def failures(findings: Iterable[Finding]) -> tuple[str, ...]:
    """What is not well, by name."""
    return tuple(finding.check for finding in findings if not finding.ok)


@dataclass(frozen=True, slots=True)
class _Seen:
    """One look at a camera."""

    findings: tuple[Finding, ...]
    frame: Frame | None = None
    reference: Reference | None = None


class Checker:
    """Makes safety checks.

    Concurrency: several threads may check at once, each another camera.

    Args:
        bus: with an outbox.
        facts: what nodes say of their cameras.
        photographer: takes the pictures.
        references: what they should look like.
        book: remembers what was escalated.
        alarms: raises the escalations.
        stop: set when the process ends.
        clock: time.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        facts: CameraFacts,
        photographer: Photographer,
        references: References,
        book: NoteBook,
        alarms: CameraAlarms,
        stop: threading.Event,
        clock: Clock,
    ) -> None:
        self._bus = bus
        self._facts = facts
        self._photographer = photographer
        self._references = references
        self._book = book
        self._alarms = alarms
        self._stop = stop
        self._clock = clock
        self._log = get_logger()
        self.made = 0
        self.failed = 0

    def check(self, camera: str, settings: SafetyChecks, reason: Reason) -> CameraCheck:
        """Look at a camera, and tell: retained on the bus, and as an escalation when something is not well.

        Args:
            camera: which one.
            settings: what to look at.
            reason: why.

        Returns:
            What was published.

        Raises:
            PermanentError: it cannot be looked at on purpose: its pictures are private, or it is switched off.
            TransientError: it is this process that has no connection.
        """
        seen = self._look(camera, settings)
        if reason == "schedule" and failures(seen.findings) and not self._clock.wait(self._stop, settings.confirm_s):
            seen = self._look(camera, settings)
        failed = failures(seen.findings)
        check = CameraCheck(
            camera=camera,
            at=self._clock.now(),
            ok=not failed,
            reason=reason,
            captured_at=seen.frame.meta.captured_at if seen.frame else None,
            reference_at=seen.reference.taken_at if seen.reference else None,
            findings=seen.findings,
        )
        self.made += 1
        self.failed += bool(failed)
        self._bus.publish(CAMERA_CHECK.at(self._bus.site, camera=camera), check)
        self._tell(camera, settings, seen)
        return check

    def forget(self, camera: str) -> None:
        """Take back what was told of a camera that the site has no more."""
        topic = CAMERA_CHECK.at(self._bus.site, camera=camera)
        self._bus.publish(topic, b"")
        self._bus.disown(topic)
        with self._book.open() as notes:
            notes.alarms.pop(camera, None)

    def take_reference(self, camera: str, label: str) -> Path:
        """Take a picture of a camera as it should be, and keep it.

        Raises:
            BadPayloadError: it is no picture.
            ConfigError: it cannot be written, or the label is no name.
            PermanentError: it shows nothing that could be compared, or none may be taken.
            TransientError: none came.
        """
        self._refuse_private(camera)
        frame = self._photographer.take(camera, SafetyChecks().fresh_s)
        for finding in judge(read_look(frame), (), SafetyChecks().sensitivity):
            if not finding.ok:
                raise PermanentError(f"this picture is none to compare others with: {finding.about}")
        return self._references.keep(camera, label, frame)

    def _refuse_private(self, camera: str) -> None:
        if reason := self._facts.unseen(camera):
            raise PermanentError(reason)

    def _look(self, camera: str, settings: SafetyChecks) -> _Seen:
        self._refuse_private(camera)
        began_s = self._clock.monotonic_s()
        try:
            frame = self._photographer.take(camera, settings.fresh_s)
            look = read_look(frame)
        except (PermanentError, TransientError, BadPayloadError) as error:
            if not self._bus.connected:
                raise TransientError("there is no connection to the broker: no camera can be looked at") from error
            late = Finding(check="fresh", ok=False, limit=settings.fresh_s, about=str(error))
            return _Seen((late,), self._photographer.kept(camera))
        took_s = round(self._clock.monotonic_s() - began_s, 3)
        references = self._references.of(camera)
        findings = [
            Finding(check="fresh", ok=True, value=took_s, limit=settings.fresh_s),
            *judge(look, [reference.look for reference in references], settings.sensitivity),
        ]
        if "frozen" in settings.checks:
            findings.append(self._look_for_change(camera, frame, settings))
        wanted = tuple(finding for finding in findings if finding.check in settings.checks)
        return _Seen(wanted, frame, max(references, key=lambda one: one.taken_at, default=None))

    def _look_for_change(self, camera: str, frame: Frame, settings: SafetyChecks) -> Finding:
        first = read_look(frame)
        finding = Finding(check="frozen", ok=True, about="no second picture came")
        for pause_s in _PAUSES_S:
            if self._clock.wait(self._stop, pause_s):
                break
            try:
                finding = judge_frozen(first, read_look(self._photographer.take(camera, settings.fresh_s)))
            except (PermanentError, TransientError, BadPayloadError) as error:
                return Finding(check="frozen", ok=True, about=f"no second picture came: {error}")
            if finding.ok:
                break
        return finding

    def _tell(self, camera: str, settings: SafetyChecks, seen: _Seen) -> None:
        failed, now = failures(seen.findings), self._clock.now()
        with self._book.open() as notes:
            before = notes.alarms.get(camera)
            if not failed:
                notes.alarms.pop(camera, None)
        if not failed:
            if before is not None:
                self._log.info("check.recovered", camera=camera, checks=before.checks)
            return
        again = timedelta(hours=settings.again_hours)
        # A clock that was set back makes no escalation wait for ever.
        is_told = before is not None and abs(now - before.at) < again
        told = before.checks if before is not None and is_told else ()
        if told and set(failed) <= set(told):
            return
        self._log.warning("check.failed", camera=camera, checks=failed, about=_summary(camera, seen.findings))
        if self._alarms.escalate(camera, CHECK_RULE, settings.severity, _summary(camera, seen.findings), seen.frame):
            with self._book.open() as notes:
                # All of them: one that fails in turns in two ways is not told each time.
                notes.alarms[camera] = AlarmNote(checks=tuple(dict.fromkeys((*told, *failed))), at=now)


def _summary(camera: str, findings: Sequence[Finding]) -> str:
    told = "; ".join(f"{finding.check}: {finding.about}" for finding in findings if not finding.ok)
    return f"the safety check of {camera} has failed: {told}"
