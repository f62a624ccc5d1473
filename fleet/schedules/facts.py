"""What the bus says of the site's cameras, as far as schedules need to know."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

from broker import Bus, Delivery
from broker.messages import CameraState, MotionTrend, OpenEvents
from broker.topics import CAMERA_MOTION_OPEN, CAMERA_MOTION_TREND, CAMERA_STATE, CAMERA_TRACK_OPEN

__all__ = ["CameraFacts"]

_K = TypeVar("_K")
_V = TypeVar("_V")
_TOPICS_MAX = 20_000
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

    def unseen(self, camera: str) -> str:
        """Why nobody may look at a camera now; empty where everybody may."""
        state = self._states.get(camera)
        if state is not None and state.privacy:
            return "its pictures are private now: nothing is looked at"
        return "it is switched off" if state is not None and state.mode == "off" else ""

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
            match content:
                case CameraState():
                    _put(self._states, camera, content)
                case OpenEvents():
                    _put(self._open, (delivery.topic.spec.name, camera), content.ids)
                case None:
                    self._forget(delivery)
        if isinstance(content, MotionTrend):
            self._on_trend(content)

    def _forget(self, delivery: Delivery) -> None:
        """What was retained is taken back: the camera is another's, or no more."""
        if delivery.topic.spec is CAMERA_STATE:
            self._states.pop(delivery.topic.camera, None)
        self._open.pop((delivery.topic.spec.name, delivery.topic.camera), None)


def _put(held: dict[_K, _V], key: _K, value: _V) -> None:
    if key in held or len(held) < _TOPICS_MAX:
        held[key] = value
