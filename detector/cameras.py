"""The cameras that a worker scores, and what it remembers of each."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from broker import Bus, Delivery
from broker.messages import OpenEvents
from broker.topics import CAMERA_TRACK_OPEN
from config.cameras import CameraSettings
from config.settings import DetectorSettings
from detector.regions import RegionPlanner
from detector.rules import open_rules, rules_of
from detector.scene import Track
from detector.track_reports import TrackReports
from detector.watching import CameraWatch
from detector.zones import ZoneMap

__all__ = ["Cameras", "WatchedCamera"]

_OPEN_MAX = 1000
"""Cameras of which is known what is open; a client that invents names must not fill the memory."""


@dataclass(slots=True)
class WatchedCamera:
    """One camera of this worker.

    Attributes:
        watch: its objects and rules.
        planner: of the parts of its frames.
        tracks: its objects as the last frame left them, for whoever plans the next one.
        turn: held while its scores are worked on, and while it is given away.
        is_ours: False once it was given away.
        seen_s: capture time of the last frame, seconds since 1970; 0 before the first.
    """

    watch: CameraWatch
    planner: RegionPlanner
    tracks: tuple[Track, ...] = ()
    turn: threading.Lock = field(default_factory=threading.Lock)
    is_ours: bool = True
    seen_s: float = 0.0


class Cameras:
    """Begins and ends the watching of cameras, and takes over what the worker before remembered.

    Concurrency: may be used from any thread.

    Args:
        bus: started after `start`.
        settings: tracking, regions and rules.
        settings_of: what the site says of a camera.
        reports: keeps what is open for the worker after this one.
        new_id: makes ids of objects.
    """

    def __init__(
        self,
        bus: Bus,
        settings: DetectorSettings,
        settings_of: Callable[[str], CameraSettings],
        reports: TrackReports,
        *,
        new_id: Callable[[], str],
    ) -> None:
        self._bus = bus
        self._settings = settings
        self._settings_of = settings_of
        self._reports = reports
        self._new_id = new_id
        self._watched: dict[str, WatchedCamera] = {}
        self._open: dict[str, OpenEvents] = {}

    def start(self) -> None:
        """Follow what is open on every camera, so that any can be taken over."""
        self._bus.subscribe(CAMERA_TRACK_OPEN, self._on_open)

    def of(self, camera: str) -> WatchedCamera | None:
        """A camera of this worker; None when it is not."""
        return self._watched.get(camera)

    def gain(self, camera: str) -> None:
        """Begin to watch a camera, where the worker before has stopped."""
        watch = self._begin(camera)
        known = self._open.get(camera)
        if known is not None:
            watch.recall(known)
        self._watched[camera] = WatchedCamera(watch, RegionPlanner(self._settings.regions))

    def lose(self, camera: str) -> None:
        """Stop watching a camera, and leave at the broker what the next worker must know."""
        watched = self._watched.pop(camera, None)
        if watched is None:
            return
        with watched.turn:
            watched.is_ours = False
            if watched.seen_s:
                self._reports.hand_over(watched.watch, datetime.fromtimestamp(watched.seen_s, UTC))
            else:
                self._reports.leave(camera)

    def end_all(self) -> None:
        """This worker ends, and nobody has taken these cameras: so do their objects."""
        for camera, watched in tuple(self._watched.items()):
            with watched.turn:
                if watched.seen_s:
                    at = datetime.fromtimestamp(watched.seen_s, UTC)
                    self._reports.report_end(watched.watch, watched.watch.end(), at)
            self.lose(camera)

    def renew(self, camera: str) -> None:
        """Its settings have changed: go on with the new ones."""
        watched = self._watched.get(camera)
        if watched is None:
            return
        with watched.turn:
            watch = self._begin(camera)
            watch.recall(watched.watch.memory(watched.seen_s))
            watched.watch = watch

    def _begin(self, camera: str) -> CameraWatch:
        settings = self._settings_of(camera)
        rules = open_rules(rules_of(self._settings.rules, settings), camera, ZoneMap(settings.zones).names)
        return CameraWatch(camera, self._settings, settings, rules, new_id=self._new_id)

    def _on_open(self, delivery: Delivery) -> None:
        camera, known = delivery.topic.camera, delivery.content
        if not isinstance(known, OpenEvents):
            self._open.pop(camera, None)
            return
        if camera in self._open or len(self._open) < _OPEN_MAX:
            self._open[camera] = known
        self._reports.on_open(camera, known)
        watched = self._watched.get(camera)
        if watched is None:
            return
        # The last word of the worker before may come after the camera did; once a frame was seen it is too late.
        with watched.turn:
            if not watched.seen_s:
                watched.watch.recall(known)
