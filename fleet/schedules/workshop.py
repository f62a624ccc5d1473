"""All that runs of schedules are done with, joined together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import tzinfo
from pathlib import Path

from broker import Bus
from config import Clock
from config.registry import CameraEntry, Login
from config.settings import Settings
from fleet.schedules.alarms import CameraAlarms
from fleet.schedules.checker import Checker
from fleet.schedules.facts import CameraFacts
from fleet.schedules.notes import NoteBook
from fleet.schedules.orders import CameraOrders
from fleet.schedules.pictures import References
from fleet.schedules.quiet import QuietHours
from fleet.schedules.rebooter import Rebooter
from fleet.schedules.shots import Photographer
from fleet.schedules.staging import StagedModels
from fleet.schedules.tasks import Tasks

__all__ = ["Workshop", "notes_file"]


def notes_file(settings: Settings) -> Path:
    """Where the schedules' notes are."""
    return settings.state_dir / "fleet" / "schedules.json"


class Workshop:
    """Makes the parts.

    Args:
        bus: with an outbox.
        settings: name the folders.
        cameras: what the registry says of each camera.
        logins: how to log in to it.
        zone: of the site, as of now.
        stop: set when the process ends.
        clock: time.
        reboot: tells a camera to start again.

    Attributes:
        book: what is remembered.
        facts: what nodes say of their cameras.
        checker: makes safety checks.
        rebooter: restarts cameras.
        staged: models that wait for their window.
        tasks: what schedules do.
    """

    def __init__(
        self,
        bus: Bus,
        settings: Settings,
        *,
        cameras: Callable[[], Mapping[str, CameraEntry]],
        logins: Callable[[], Mapping[str, Login]],
        zone: Callable[[], tzinfo],
        stop: threading.Event,
        clock: Clock,
        reboot: Callable[[str, Login | None], None],
    ) -> None:
        quiet = QuietHours(settings.state_dir / "fleet" / "quiet_hours.json")
        self._orders = CameraOrders(bus, clock)
        self.book = NoteBook(notes_file(settings))
        self.facts = CameraFacts(bus, lambda trend: quiet.learn(trend, zone()))
        photographer, alarms = Photographer(bus, self._orders, clock), CameraAlarms(bus, clock)
        self.checker = Checker(
            bus,
            facts=self.facts,
            photographer=photographer,
            references=References(settings.fleet.registry),
            book=self.book,
            alarms=alarms,
            stop=stop,
            clock=clock,
        )
        self.rebooter = Rebooter(
            facts=self.facts,
            quiet=quiet,
            photographer=photographer,
            alarms=alarms,
            book=self.book,
            cameras=cameras,
            logins=logins,
            stop=stop,
            clock=clock,
            reboot=reboot,
        )
        self.staged = StagedModels(bus, settings.fleet.registry, clock)
        self.tasks = Tasks(
            facts=self.facts,
            orders=self._orders,
            photographer=photographer,
            checker=self.checker,
            rebooter=self.rebooter,
            cameras=cameras,
            stop=stop,
        )

    def start(self) -> None:
        """Ask for what is needed, before the bus connects."""
        self.facts.start()
        self._orders.start()
        self.staged.start()
