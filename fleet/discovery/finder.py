"""Cameras that have another address: found again by what they are, and their files follow. A part of the fleet.

It looks when a camera is away for a while, and every few hours, to learn MAC and serial number of those that somebody
has added by hand. A camera that is away is asked with its own login, and only one that takes it is believed; one that
answers at its old address is left there.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from broker import Bus, Delivery, Figures
from broker.messages import CameraState
from broker.topics import CAMERA_STATE
from config import Clock, SystemClock, VigilError, get_logger
from config.registry import CameraEntry, Login
from config.settings import Settings
from config.supervise import Supervised
from fleet.discovery.adding import follow
from fleet.discovery.cameras import Camera, ask_cameras
from fleet.discovery.known import KnownCameras, host_of
from fleet.discovery.sightings import Search, Sighting, look_around
from fleet.registry.publisher import Publisher
from fleet.role import Order

__all__ = ["Finder"]

_AGAIN_MAX_S = 3600.0
"""A camera that nobody finds may be unplugged: it is looked for less and less often, but for ever."""
_AWAY_MAX = 10_000
"""Anybody with access to the bus may invent names."""
_LISTEN_S = 2.0
_WAIT_MAX_S = 30.0
_CLOSE_WAIT_S = 5.0


@dataclass(slots=True)
class _Absence:
    since_s: float
    look_at_s: float
    again_s: float


class Finder:
    """Looks for cameras that have moved, and writes down where they are.

    Concurrency: the bus's thread tells which cameras are away; it looks on a thread of its own.

    Args:
        bus: who says how cameras are.
        settings: how long a camera may be away, and where to look.
        publisher: has the folder that is changed, and publishes it.
        clock: time.
    """

    def __init__(self, bus: Bus, settings: Settings, publisher: Publisher, clock: Clock | None = None) -> None:
        self._bus = bus
        self._fleet = settings.fleet
        self._publisher = publisher
        self._folder = publisher.folder
        self._clock: Clock = clock or SystemClock()
        self._log = get_logger()
        self._lock = threading.Lock()
        self._away: dict[str, _Absence] = {}
        self._refused: set[tuple[str, str]] = set()
        self._routine_s = self._clock.monotonic_s() + self._fleet.find_after_s
        self._is_asked = False
        self._trouble = ""
        self._counts = {"camera_searches": 0, "cameras_followed": 0}
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread = Supervised("finder", self._turn, stop=self._stop, clock=self._clock)

    @property
    def orders(self) -> Mapping[str, Order]:
        """``find``: look now."""
        return {"find": self._order_find}

    def start(self) -> None:
        """Listen how cameras are, and begin to look."""
        self._bus.subscribe(CAMERA_STATE, self._on_state)
        self._thread.start()

    def close(self) -> None:
        """End; a look that has begun asks nobody else."""
        self._stop.set()
        self._wake.set()
        self._thread.join(_CLOSE_WAIT_S)

    def figures(self) -> Figures:
        """How often it looked, and what came of it."""
        return Figures(counts=dict(self._counts))

    def _order_find(self, _arguments: Mapping[str, str]) -> Mapping[str, str]:
        self._is_asked = True
        self._wake.set()
        return {"state": "looking"}

    def _on_state(self, delivery: Delivery) -> None:
        state, camera = delivery.content, delivery.topic.camera
        now_s = self._clock.monotonic_s()
        with self._lock:
            if not isinstance(state, CameraState) or state.state == "online" or state.mode == "off":
                self._away.pop(camera, None)
            elif camera not in self._away and len(self._away) < _AWAY_MAX:
                after_s = self._fleet.find_after_s
                self._away[camera] = _Absence(now_s, now_s + after_s, after_s)
                self._wake.set()

    def _turn(self) -> None:
        now_s = self._clock.monotonic_s()
        with self._lock:
            due_s = min((self._routine_s, *(one.look_at_s for one in self._away.values())))
            away = set(self._away)
        if not self._is_asked and now_s < due_s:
            self._wake.wait(min(_WAIT_MAX_S, due_s - now_s))
            self._wake.clear()
            return
        is_routine = self._is_asked or now_s >= self._routine_s
        self._is_asked = False
        self._put_off(now_s, is_routine=is_routine)
        self._counts["camera_searches"] += 1
        try:
            self._look(away, is_routine=is_routine)
            self._trouble = ""
        except VigilError as error:
            if str(error) != self._trouble:
                self._log.warning("fleet.find_failed", error=str(error))
            self._trouble = str(error)

    def _put_off(self, now_s: float, *, is_routine: bool) -> None:
        """When to look next, decided before the look: one that fails must not be tried in a circle."""
        with self._lock:
            if is_routine:
                self._routine_s = now_s + self._fleet.find_every_s
                self._refused.clear()
            for absence in self._away.values():
                if now_s >= absence.look_at_s:
                    absence.again_s = min(2 * absence.again_s, max(_AGAIN_MAX_S, self._fleet.find_after_s))
                    absence.look_at_s = now_s + absence.again_s

    def _look(self, away: set[str], *, is_routine: bool) -> None:
        entries = {
            name: held.entry
            for name, held in self._folder.read().cameras.items()
            if host_of(held.entry) and not held.entry.excluded
        }
        away &= set(entries)
        if not away and not (is_routine and entries):
            return
        found = look_around(Search(interfaces=self._fleet.find_interfaces, wait_s=_LISTEN_S))
        known, logins = KnownCameras(entries), self._folder.logins()
        sightings = [one for one in found.sightings if self._is_worth_asking(one, known, away, is_routine=is_routine)]
        cameras = ask_cameras(sightings, known, login=_likely_login(away, logins), logins=logins, stop=self._stop)
        self._refused |= {
            (one.sighting.host, one.sighting.endpoint) for one in cameras if one.login is None and one.facts is None
        }
        there = {one.known_as for one in cameras if _is_at_its_place(one, entries)}
        self._write([one for one in cameras if _is_to_be_believed(one, entries, away, there, logins)])

    def _is_worth_asking(self, sighting: Sighting, known: KnownCameras, away: set[str], *, is_routine: bool) -> bool:
        """Not one that has refused, nor one that is well where it is and of which enough is known."""
        if sighting.onvif is None or (sighting.host, sighting.endpoint) in self._refused:
            return False
        name = known.guess(sighting)
        if name is None or name in away:
            return bool(away)
        device = known.entries[name].device
        return is_routine and device.mac is None and not device.serial

    def _write(self, cameras: Iterable[Camera]) -> None:
        moved = follow(self._folder, cameras)
        for name, (before, now) in moved.items():
            self._counts["cameras_followed"] += 1
            self._log.info("fleet.camera_followed", camera=name, before=before, now=now)
        if moved:
            self._publisher.orders["sync"]({})


def _likely_login(away: Iterable[str], logins: Mapping[str, Login]) -> Login | None:
    """The login that most of those that are away have: what cannot be told apart is asked with that one only."""
    counted = Counter(
        (login.username, login.password.get_secret_value()) for name in away if (login := logins.get(name)) is not None
    )
    if not counted:
        return None
    best = counted.most_common(1)[0][0]
    return next(one for one in logins.values() if (one.username, one.password.get_secret_value()) == best)


def _is_at_its_place(camera: Camera, entries: Mapping[str, CameraEntry]) -> bool:
    entry = entries.get(camera.known_as or "")
    return entry is not None and host_of(entry) == camera.sighting.host


def _is_to_be_believed(
    camera: Camera,
    entries: Mapping[str, CameraEntry],
    away: set[str],
    there: set[str | None],
    logins: Mapping[str, Login],
) -> bool:
    """Whether its file may follow: it is the camera, took its login, and is not at its old address as well."""
    name = camera.known_as
    if name is None or camera.facts is None:
        return False
    if _is_at_its_place(camera, entries):
        return True
    return name in away and name not in there and (name not in logins or camera.login == logins[name])
