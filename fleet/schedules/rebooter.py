"""Restarts of cameras: one at a time, when little moves, never while an event is open, and with a look afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo

from broker import Frame
from config import Clock, ConfigError, PermanentError, TransientError, VigilError, get_logger
from config.registry import CameraEntry, Login
from config.schedules import Schedule
from fleet.schedules.alarms import REBOOT_RULE, CameraAlarms
from fleet.schedules.facts import CameraFacts
from fleet.schedules.notes import NoteBook, RebootNote
from fleet.schedules.quiet import QuietHours
from fleet.schedules.shots import Photographer

__all__ = ["Rebooter", "reboot_by_onvif"]

_DOWN_S = 15.0
"""A camera goes on for some seconds after it was told: a picture of then proves nothing."""
_BACK_S = 240.0
"""Until it must have come back: cameras take 40 to 120 s, and their node tries again every few seconds."""
_TRY_S = 15.0


def reboot_by_onvif(address: str, login: Login | None) -> None:
    """Tell a camera to start again.

    Raises:
        VigilError: it does not answer, or refuses.
    """
    # Here: its library takes longer to import than everything else of the fleet, and few sites restart cameras.
    from fleet.discovery.onvif import OnvifCamera

    OnvifCamera(address, login).reboot()


class Rebooter:
    """Restarts cameras over ONVIF.

    Concurrency: `ask` and `step` may be called from any thread; the restarts themselves are made one after the other.

    Args:
        facts: what moves before the cameras.
        quiet: when little moves.
        photographer: looks whether a camera has come back.
        alarms: tells when it has not.
        book: remembers which wait.
        cameras: what the registry says of each.
        logins: how to log in, by camera.
        stop: set when the process ends.
        clock: time.
        reboot: tells a camera.
    """

    def __init__(
        self,
        *,
        facts: CameraFacts,
        quiet: QuietHours,
        photographer: Photographer,
        alarms: CameraAlarms,
        book: NoteBook,
        cameras: Callable[[], Mapping[str, CameraEntry]],
        logins: Callable[[], Mapping[str, Login]],
        stop: threading.Event,
        clock: Clock,
        reboot: Callable[[str, Login | None], None] = reboot_by_onvif,
    ) -> None:
        self._facts = facts
        self._quiet = quiet
        self._photographer = photographer
        self._alarms = alarms
        self._book = book
        self._cameras = cameras
        self._logins = logins
        self._stop = stop
        self._clock = clock
        self._reboot = reboot
        self._one = threading.Lock()
        self._log = get_logger()
        self.made = 0
        self.failed = 0

    def ask(self, name: str, schedule: Schedule, cameras: Sequence[str]) -> str:
        """Let cameras wait for their moment.

        Args:
            name: of the schedule.
            schedule: which moments are good.
            cameras: which.

        Returns:
            For a person, what becomes of it.
        """
        until = self._clock.now() + timedelta(hours=schedule.within_hours)
        entries = self._cameras()
        able = [camera for camera in cameras if camera in entries and entries[camera].device.onvif]
        with self._book.open() as notes:
            for camera in able:
                notes.reboots[camera] = RebootNote(schedule=name, until=until, quiet=schedule.quiet)
        moment = "a quiet hour" if schedule.quiet else "a moment in which nothing moves"
        told = [f"{len(able)} wait for {moment}"] if able else []
        unable = [camera for camera in cameras if camera not in able]
        told += [f"no ONVIF address in the registry: {', '.join(unable)}"] if unable else []
        return "; ".join(told) or "no camera"

    def step(self, zone: tzinfo) -> str | None:
        """Restart at most one camera whose moment has come, and wait for it; returns its name."""
        self._quiet.save()
        camera = self._choose(zone)
        if camera is None:
            return None
        try:
            self.reboot(camera)
        except VigilError as error:
            self._log.warning("reboot.failed", camera=camera, error=str(error))
        with self._book.open() as notes:
            notes.reboots.pop(camera, None)
        return camera

    def waiting(self) -> dict[str, RebootNote]:
        """The cameras that wait for their moment."""
        with self._book.open() as notes:
            return dict(notes.reboots)

    def _choose(self, zone: tzinfo) -> str | None:
        now = self._clock.now()
        for camera, note in self.waiting().items():
            if now > note.until:
                self._give_up(camera)
            elif self._is_good(camera, note, now, zone):
                return camera
        return None

    def _is_good(self, camera: str, note: RebootNote, now: datetime, zone: tzinfo) -> bool:
        if any(self._facts.open_events(camera)) or self._facts.unseen(camera):
            return False
        return not note.quiet or self._quiet.is_quiet(camera, now, note.until, zone)

    def _give_up(self, camera: str) -> None:
        self._log.warning("reboot.given_up", camera=camera, reason="there was no moment in which nothing moved")
        with self._book.open() as notes:
            notes.reboots.pop(camera, None)

    def reboot(self, camera: str) -> None:
        """Restart a camera now, and wait until a picture has come from it again.

        Raises:
            ConfigError: the registry does not say how.
            PermanentError: something is open there, nobody may look or touch it, or it refuses.
            TransientError: it does not answer, or has not come back; that is escalated.
        """
        entry = self._cameras().get(camera)
        if entry is None or entry.device.onvif is None:
            raise ConfigError(
                f"the registry has no ONVIF address of {camera}: set its device.onvif", field="device.onvif"
            )
        if entry.excluded:
            raise PermanentError(f"the camera {camera} is excluded: nobody touches it")
        with self._one:
            if reason := self._facts.unseen(camera):
                raise PermanentError(f"{reason}, so nobody could tell whether it comes back")
            if any(self._facts.open_events(camera)):
                raise PermanentError(f"something is going on before {camera}: it is not restarted now")
            self._reboot(entry.device.onvif, self._logins().get(camera))
            self._log.info("reboot.begun", camera=camera)
            began_s = self._clock.monotonic_s()
            self._clock.wait(self._stop, _DOWN_S)
            if self._comes_back(camera) is None and not self._stop.is_set():
                self.failed += 1
                summary = (
                    f"{camera} was restarted and has not come back within {_BACK_S:g} s: look at its power and network"
                )
                self._alarms.escalate(
                    camera, REBOOT_RULE, entry.checks.severity, summary, self._photographer.kept(camera)
                )
                raise TransientError(summary)
        self.made += 1
        self._log.info("reboot.done", camera=camera, took_s=round(self._clock.monotonic_s() - began_s, 1))

    def _comes_back(self, camera: str) -> Frame | None:
        end_s = self._clock.monotonic_s() + _BACK_S
        while self._clock.monotonic_s() < end_s and not self._stop.is_set():
            try:
                return self._photographer.take(camera, _TRY_S)
            except TransientError:
                continue
            except PermanentError:  # its node says that it gives no pictures yet
                self._clock.wait(self._stop, 2.0)
        return None
