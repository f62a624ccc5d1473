"""What schedules do with cameras."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from config import PermanentError, TransientError, VigilError
from config.registry import CameraEntry
from config.schedules import SafetyChecks, Schedule
from fleet.schedules.checker import Checker, failures
from fleet.schedules.facts import CameraFacts
from fleet.schedules.orders import CameraOrders
from fleet.schedules.rebooter import Rebooter
from fleet.schedules.shots import Photographer

__all__ = ["Run", "Tasks", "checks_of", "chosen_cameras"]

_AT_ONCE = 4
"""Cameras at one time: the pictures of more would meet in the network."""
_PICTURE_WAIT_S = 15.0
_RETENTION_WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a schedule.

    Attributes:
        name: of the schedule.
        cameras: what it is for, as of now.
        asked: somebody wants it now.
    """

    name: str
    schedule: Schedule
    cameras: Sequence[str]
    asked: bool


def chosen_cameras(schedule: Schedule, entries: Mapping[str, CameraEntry], facts: CameraFacts) -> list[str]:
    """The cameras that a schedule is for: of the registry, and those that nodes watch by their own settings."""
    known = {name for name in facts.cameras() if name not in entries}
    known |= {name for name, entry in entries.items() if not entry.excluded}
    if not schedule.cameras and not schedule.areas:
        return sorted(known)
    areas = {name for name in known if name in entries and entries[name].area in schedule.areas}
    return sorted(known & set(schedule.cameras) | areas)


def checks_of(camera: str, entries: Mapping[str, CameraEntry]) -> SafetyChecks:
    """What a safety check of a camera looks at."""
    return entries[camera].checks if camera in entries else SafetyChecks()


class Tasks:
    """Does them.

    Concurrency: may be used from any thread.

    Args:
        facts: what nodes say of their cameras.
        orders: tells cameras something.
        photographer: takes pictures.
        checker: makes safety checks.
        rebooter: restarts cameras.
        cameras: what the registry says of each.
        stop: set when the process ends: what has not begun by then is left out.
    """

    def __init__(
        self,
        *,
        facts: CameraFacts,
        orders: CameraOrders,
        photographer: Photographer,
        checker: Checker,
        rebooter: Rebooter,
        cameras: Callable[[], Mapping[str, CameraEntry]],
        stop: threading.Event,
    ) -> None:
        self._stop = stop
        self._facts = facts
        self._orders = orders
        self._photographer = photographer
        self._checker = checker
        self._rebooter = rebooter
        self._cameras = cameras

    def do(self, run: Run) -> str:
        """Do what a schedule says.

        Returns:
            For a person, what came of it.

        Raises:
            VigilError: it was not done, or not of all cameras; the message says of which, and why.
        """
        match run.schedule.task:
            case "snapshot":
                return self._of_each("pictures", self._seen(run), self._take)
            case "check":
                reason: Literal["schedule", "request"] = "request" if run.asked else "schedule"
                return self._of_each("cameras are well", self._seen(run), lambda camera: self._check(camera, reason))
            case "reboot" if run.asked:
                return self._of_each("restarted", run.cameras, self._reboot, at_once=1)
            case "reboot":
                return self._rebooter.ask(run.name, run.schedule, run.cameras)
            case "retention":
                hours = run.schedule.keep_hours or 0.0
                return self._of_each("looked through", run.cameras, lambda camera: self._expire(camera, hours))

    def _seen(self, run: Run) -> list[str]:
        """Without those that nobody may look at now, or that are off."""
        return [camera for camera in run.cameras if not self._facts.unseen(camera)]

    def _take(self, camera: str) -> str:
        self._photographer.take(camera, _PICTURE_WAIT_S)
        return ""

    def _check(self, camera: str, reason: Literal["schedule", "request"]) -> str:
        check = self._checker.check(camera, checks_of(camera, self._cameras()), reason)
        if not check.ok:
            raise PermanentError(", ".join(failures(check.findings)))
        return ""

    def _reboot(self, camera: str) -> str:
        self._rebooter.reboot(camera)
        return ""

    def _expire(self, camera: str, keep_hours: float) -> str:
        reply = self._orders.set(camera, "retention", f"{keep_hours:g}", _RETENTION_WAIT_S)
        return f"{camera} {reply.result.get('deleted', '0')} deleted"

    def _of_each(
        self, done: str, cameras: Sequence[str], work: Callable[[str], str], *, at_once: int = _AT_ONCE
    ) -> str:
        """Do something with each camera, whatever the trouble of one.

        Raises:
            PermanentError: it could not be done with some; all others are done.
        """
        told: list[str] = []
        troubles: list[str] = []

        def one(camera: str) -> None:
            try:
                if self._stop.is_set():
                    raise TransientError("the fleet's process ends")
                told.append(work(camera))
            except VigilError as error:
                troubles.append(f"{camera}: {error}")

        with ThreadPoolExecutor(at_once, thread_name_prefix="schedules") as pool:
            list(pool.map(one, cameras))
        words = ", ".join(text for text in sorted(told) if text)
        summary = f"{len(told)} {done}" + (f": {words}" if words else "")
        if troubles:
            raise PermanentError(f"{summary}; not {'; '.join(sorted(troubles))}")
        return summary
