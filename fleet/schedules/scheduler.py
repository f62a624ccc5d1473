"""Keeps the site's schedules: a part of the fleet's process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import tzinfo
from functools import partial
from typing import Protocol

import msgspec

from broker import Bus, Figures
from config import (
    BadPayloadError,
    Clock,
    ConfigError,
    Supervised,
    SystemClock,
    TransientError,
    VigilError,
    get_logger,
)
from config.names import check_name
from config.registry import CameraEntry, Login, SiteEntry
from config.schedules import Schedule
from config.settings import Settings
from fleet.desk import Order
from fleet.registry.folder import Registry, RegistryFolder
from fleet.schedules.jobs import Jobs
from fleet.schedules.notes import Outcome, RunNote, ScheduleNote
from fleet.schedules.plan import Due, Plan, definition
from fleet.schedules.rebooter import reboot_by_onvif
from fleet.schedules.tasks import Run, checks_of, chosen_cameras
from fleet.schedules.timetable import is_open, site_zone
from fleet.schedules.workshop import Workshop

__all__ = ["Scheduler", "Site"]

_TICK_MAX_S = 1.0
"""How soon a clock that was set, or a file that was edited, is noticed."""
_REBOOT_TICK_S = 20.0
_LEAVE_S = 5.0
_ABOUT_MAX = 1000


class Site(Protocol):
    """Whoever reads the registry: :class:`fleet.registry.publisher.Publisher`."""

    @property
    def folder(self) -> RegistryFolder:
        """The registry's files."""
        ...

    def on_change(self, callback: Callable[[Registry], None]) -> None:
        """Call `callback` with what the files say, first when they were read and then when that is different."""
        ...


class Scheduler:
    """Does what is to be done at given times.

    Concurrency: a thread looks what is due, another restarts cameras, and each run has one of its own.

    Args:
        bus: with an outbox.
        settings: name the state folder.
        publisher: reads the registry.
        clock: time.
        do: what a run does; default everything that there is.
        spawn: begins a run; default on a thread of its own.
        reboot: tells a camera to start again.
    """

    def __init__(
        self,
        bus: Bus,
        settings: Settings,
        publisher: Site,
        clock: Clock | None = None,
        *,
        do: Callable[[Run], str] | None = None,
        spawn: Callable[[Callable[[], None]], None] | None = None,
        reboot: Callable[[str, Login | None], None] = reboot_by_onvif,
    ) -> None:
        self._bus = bus
        self._clock: Clock = clock or SystemClock()
        self._log = get_logger()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._site: SiteEntry = SiteEntry()
        self._zone: tzinfo = site_zone(None)
        self._cameras: Mapping[str, CameraEntry] = {}
        shop = Workshop(
            bus,
            settings,
            cameras=lambda: self._cameras,
            logins=publisher.folder.logins,
            zone=lambda: self._zone,
            stop=self._stop,
            clock=self._clock,
            reboot=reboot,
        )
        self._shop = shop
        self._book, self._facts, self._staged = shop.book, shop.facts, shop.staged
        self._checker, self._rebooter = shop.checker, shop.rebooter
        self._do = do or shop.tasks.do
        self._jobs = Jobs()
        self._spawn = spawn or _on_a_thread
        self._plan = Plan()
        self._running: set[str] = set()
        self._changed = False
        self._runs = {"schedules_run": 0, "schedules_failed": 0, "schedules_missed": 0}
        publisher.on_change(self._on_registry)
        self._threads = [
            Supervised("schedules", self._look_and_wait, stop=self._stop, clock=self._clock),
            Supervised("schedules-reboots", self._reboot_and_wait, stop=self._stop, clock=self._clock),
        ]

    @property
    def orders(self) -> Mapping[str, Order]:
        """What commands ask for; what takes longer is a job, and ``job`` asks after it."""
        return {
            "run-schedule": self._order_run,
            "check-camera": self._order_check,
            "take-reference": self._order_reference,
            "list-cameras": lambda _arguments: {"cameras": " ".join(self._all_cameras())},
            "stage-model": self._order_stage,
            "job": lambda arguments: self._jobs.tell(arguments.get("job", "")),
        }

    def start(self) -> None:
        """Begin, before the bus connects."""
        self._shop.start()
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End; a run that is under way is left alone, and the next process says so."""
        self._stop.set()
        for thread in self._threads:
            thread.join(_LEAVE_S)
        self._jobs.close(0.1)

    def figures(self) -> Figures:
        """What was done since the start."""
        return Figures(
            queues={"cameras_to_restart": len(self._rebooter.waiting())},
            counts={
                **self._runs,
                "cameras_checked": self._checker.made,
                "cameras_not_well": self._checker.failed,
                "cameras_restarted": self._rebooter.made,
            },
        )

    def open_events(self, camera: str) -> Iterable[str]:
        """Movements and objects that are before a camera now, as far as is known here."""
        return self._facts.open_events(camera)

    def may_update(self) -> bool:
        """Whether nodes may be given another version now; for what does so by itself."""
        return is_open(self._site.windows.updates, self._clock.now(), self._zone)

    # --- time ----------------------------------------------------------------------------------------------------

    def _look_and_wait(self) -> None:
        self._clock.wait(self._stop, min(self.step(), _TICK_MAX_S))

    def step(self) -> float:
        """Begin what is due; returns the seconds until something is due next."""
        now = self._clock.now()
        self._follow_registry()
        found = self._plan.due(now)
        if found:
            begun = [due for due in found if self._is_to_begin(due)]
            with self._book.open() as notes:
                for name, settled in self._plan.settled().items():
                    notes.schedules[name].settled = settled
                for due in found:
                    self._note_due(notes.schedules[due.name], due, is_begun=due in begun)
            for due in begun:
                self._spawn(partial(self._run_due, due))
        self._staged.step(self._site.windows.models, self._zone)
        return self._plan.wait_s(now)

    def _reboot_and_wait(self) -> None:
        connection = self._bus.connections
        if self._clock.wait(self._stop, _REBOOT_TICK_S):
            return
        # What is open before a camera is known once a connection has brought it, and only while that holds.
        if self._bus.connected and self._bus.connections == connection:
            self._rebooter.step(self._zone)

    def _on_registry(self, registry: Registry) -> None:
        """Runs on the registry's thread."""
        with self._lock:
            gone = self._cameras.keys() - registry.cameras.keys()
            self._cameras = {name: held.entry for name, held in registry.cameras.items()}
            site = registry.site.entry if registry.site is not None else SiteEntry()
            if site != self._site:
                self._site, self._zone, self._changed = site, site_zone(site), True
        for camera in gone:
            self._checker.forget(camera)

    def _follow_registry(self) -> None:
        """Where the schedules were edited, follow them: one that is new, or has other times, begins with now."""
        with self._lock:
            site, zone, changed, self._changed = self._site, self._zone, self._changed, False
        if not changed:
            return
        now, settled = self._clock.now(), {}
        with self._book.open() as notes:
            for name in [name for name in notes.schedules if name not in site.schedules]:
                del notes.schedules[name]
            for name, schedule in site.schedules.items():
                of, note = definition(schedule, zone), notes.schedules.get(name)
                if note is None or note.of != of:
                    notes.schedules[name] = ScheduleNote(of=of, settled=now, last=note.last if note else None)
                elif note.last is not None and note.last.outcome == "running" and name not in self._running:
                    note.last.outcome, note.last.about = "failed", "the fleet's process ended meanwhile"
                settled[name] = notes.schedules[name].settled
        self._plan.set(site.schedules, zone, settled)
        self._log.info("schedules.followed", schedules=len(site.schedules), zone=str(zone))

    # --- runs ----------------------------------------------------------------------------------------------------

    def _is_to_begin(self, due: Due) -> bool:
        """Whether a run begins now; from then on it counts as running."""
        name = due.name
        if due.missed:
            self._runs["schedules_missed"] += due.missed
            self._log.warning(
                "schedule.missed", schedule=name, missed=due.missed, last=due.at.isoformat(), made_good=due.run
            )
        if due.run and name in self._running:
            self._log.warning("schedule.overlapped", schedule=name)
            return False
        if due.run:
            self._running.add(name)
        return due.run

    def _note_due(self, note: ScheduleNote, due: Due, *, is_begun: bool) -> None:
        if is_begun:
            note.last = RunNote(due=due.at, began=self._clock.now())
        elif not due.run:
            note.last = RunNote(due.at, due.at, "missed", due.at, f"{due.missed} left out: nobody kept the schedules")

    def _run_due(self, due: Due) -> None:
        try:
            self._run(due.name, due.schedule, asked=False)
        except VigilError as error:
            self._log.warning("schedule.failed", schedule=due.name, error=str(error))

    def _run(self, name: str, schedule: Schedule, *, asked: bool) -> str:
        """Make a run that is noted as running.

        Raises:
            VigilError: it was not done, or not with all cameras.
        """
        outcome: Outcome = "failed"
        about = "it ended with a fault: see the fleet's log"
        self._runs["schedules_run"] += 1
        try:
            cameras = chosen_cameras(schedule, self._cameras, self._facts)
            about = self._do(Run(name, schedule, cameras, asked))
            outcome = "done"
            self._log.info("schedule.done", schedule=name, task=schedule.task, about=about)
            return about
        except VigilError as error:
            about = str(error)
            raise
        finally:
            self._runs["schedules_failed"] += outcome == "failed"
            self._running.discard(name)
            self._end_note(name, outcome, about)

    def _end_note(self, name: str, outcome: Outcome, about: str) -> None:
        with self._book.open() as notes:
            note = notes.schedules.get(name)
            if note is not None and note.last is not None:
                note.last.ended = self._clock.now()
                note.last.outcome = outcome
                note.last.about = about[:_ABOUT_MAX]

    # --- orders --------------------------------------------------------------------------------------------------

    def _order_run(self, arguments: Mapping[str, str]) -> Mapping[str, str]:
        name = arguments.get("schedule", "")
        schedule = self._site.schedules.get(name)
        if schedule is None:
            known = ", ".join(sorted(self._site.schedules)) or "none"
            raise BadPayloadError(f"there is no schedule {name[:64]!r} in the registry's site.yaml; known are {known}")
        if name in self._running:
            raise BadPayloadError(f"the schedule {name} is running already")
        now = self._clock.now()
        self._running.add(name)
        with self._book.open() as notes:
            fresh = ScheduleNote(of=definition(schedule, self._zone), settled=now)
            notes.schedules.setdefault(name, fresh).last = RunNote(due=now, began=now)
        try:
            return self._jobs.begin(lambda: {"about": self._run(name, schedule, asked=True)})
        except TransientError as error:
            self._running.discard(name)
            self._end_note(name, "failed", str(error))
            raise

    def _order_check(self, arguments: Mapping[str, str]) -> Mapping[str, str]:
        camera = self._known(arguments)
        settings = checks_of(camera, self._cameras)
        return self._jobs.begin(
            lambda: {"check": msgspec.json.encode(self._checker.check(camera, settings, "request")).decode()}
        )

    def _order_reference(self, arguments: Mapping[str, str]) -> Mapping[str, str]:
        camera, label = self._known(arguments), arguments.get("label", "day")
        return self._jobs.begin(lambda: {"path": str(self._checker.take_reference(camera, label))})

    def _order_stage(self, arguments: Mapping[str, str]) -> Mapping[str, str]:
        windows, stage = self._site.windows.models, arguments.get("stage") != "no"
        opens = self._staged.offer(arguments.get("manifest", ""), windows, self._zone, stage=stage)
        return {} if opens is None else {"opens": opens.astimezone(self._zone).isoformat(timespec="minutes")}

    def _known(self, arguments: Mapping[str, str]) -> str:
        camera = arguments.get("camera", "")
        try:
            check_name(camera)
        except ValueError as error:
            raise ConfigError(str(error), field="camera") from None
        if camera not in self._cameras and self._facts.state(camera) is None:
            raise BadPayloadError(f"there is no camera {camera!r}: neither the registry nor a node speaks of it")
        if camera in self._cameras and self._cameras[camera].excluded:
            raise BadPayloadError(f"the camera {camera} is excluded: nobody touches it")
        return camera

    def _all_cameras(self) -> list[str]:
        return chosen_cameras(Schedule(task="check", every="1d"), self._cameras, self._facts)


def _on_a_thread(run: Callable[[], None]) -> None:
    threading.Thread(target=run, name="schedules-run", daemon=True).start()
