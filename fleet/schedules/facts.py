"""What the bus says of the site's cameras, as far as schedules need to know."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from broker import Bus, Delivery
from broker.messages import CameraState, MotionTrend, OpenEvents
from broker.topics import CAMERA_MOTION_OPEN, CAMERA_MOTION_TREND, CAMERA_STATE, CAMERA_TRACK_OPEN

__all__ = ["CameraFacts"]

_CAMERAS_MAX = 10_000
"""Anybody with access to the bus may invent names."""


class CameraFacts:
    """Listens, and remembers the last word.

    Concurrency: fed by the bus's thread; may be asked from any.

    Args:
        bus: to listen on.
        on_trend: called on the bus's thread with how much moved in front of a camera.
    """

    def __init__(self, bus: Bus, on_trend: Callable[[MotionTrend], None]) -> None:
        self._bus = bus
        self._on_trend = on_trend
        self._lock = threading.Lock()
        self._states: dict[str, CameraState] = {}
        self._open: dict[tuple[str, str], tuple[str, ...]] = {}

    def start(self) -> None:
        """Ask for what is needed."""
        for spec in (CAMERA_STATE, CAMERA_MOTION_OPEN, CAMERA_TRACK_OPEN, CAMERA_MOTION_TREND):
            self._bus.subscribe(spec, self._on_delivery)

    def cameras(self) -> list[str]:
        """Every camera that a node speaks of."""
        with self._lock:
            return sorted(self._states)

    def state(self, camera: str) -> CameraState | None:
        """What its node says of it; None: no node speaks of it."""
        return self._states.get(camera)

    def open_events(self, camera: str) -> Iterable[str]:
        """Movements and objects that are there now."""
        with self._lock:
            return [
                event
                for spec in (CAMERA_MOTION_OPEN, CAMERA_TRACK_OPEN)
                for event in self._open.get((spec.name, camera), ())
            ]

    def _on_delivery(self, delivery: Delivery) -> None:
        content, camera = delivery.content, delivery.topic.camera
        with self._lock:
            if len(self._states) >= _CAMERAS_MAX and camera not in self._states:
                return
            match content:
                case CameraState():
                    self._states[camera] = content
                case OpenEvents():
                    self._open[delivery.topic.spec.name, camera] = content.ids
                case None:
                    self._forget(delivery)
        if isinstance(content, MotionTrend):
            self._on_trend(content)

    def _forget(self, delivery: Delivery) -> None:
        """What was retained is taken back: the camera is another's, or no more."""
        if delivery.topic.spec is CAMERA_STATE:
            self._states.pop(delivery.topic.camera, None)
        self._open.pop((delivery.topic.spec.name, delivery.topic.camera), None)
