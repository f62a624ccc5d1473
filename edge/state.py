"""A camera's state as its node tells it: several parts of the node know something, one message says it."""

from __future__ import annotations

import threading
from typing import Any

import msgspec

from broker import Bus
from broker.messages import CameraState
from broker.topics import CAMERA_STATE
from config import Clock

__all__ = ["StateReport"]

_TEXT_MAX = 1000
_INSIST_EVERY_S = 2.0
"""Two nodes whose own settings name one camera would contradict each other as fast as the broker can."""


class StateReport:
    """Publishes a camera's state when there is news.

    Concurrency: may be called from any thread.

    Args:
        bus: where to.
        camera: the camera's name.
        node: this machine's name.
        clock: time.
    """

    def __init__(self, bus: Bus, camera: str, *, node: str, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock
        self._topic = CAMERA_STATE.at(bus.site, camera=camera)
        self._lock = threading.Lock()
        self._troubles: dict[str, str] = {}
        self._now = CameraState(camera=camera, state="offline", node=node, at=clock.now())
        self._is_said = False
        self._is_left = False
        self._insist_s = float("-inf")

    @property
    def now(self) -> CameraState:
        """The state as it is."""
        return self._now

    def say(self, **changes: Any) -> None:  # noqa: ANN401 - fields of the message
        """Say what has changed; nothing where nothing has.

        Args:
            changes: fields of :class:`broker.messages.CameraState`, without `error`.
        """
        with self._lock:
            now = msgspec.structs.replace(self._now, **changes, error=self._error())
            if self._is_left or (self._is_said and now == self._now):
                return
            self._is_said = True
            self._now = msgspec.structs.replace(now, at=self._clock.now())
            self._bus.publish(self._topic, self._now)

    def note(self, part: str, trouble: str | None) -> None:
        """Remember what is wrong with a part of the camera, or that nothing is; told with the next `say`."""
        with self._lock:
            if trouble:
                self._troubles[part] = trouble
            else:
                self._troubles.pop(part, None)

    def insist(self, said: CameraState) -> None:
        """Say it again where another node, which stood still while its camera was taken over, has spoken since."""
        with self._lock:
            now_s = self._clock.monotonic_s()
            if self._is_left or not self._is_said or said.node == self._now.node or now_s < self._insist_s:
                return
            self._insist_s = now_s + _INSIST_EVERY_S
            self._bus.publish(self._topic, self._now)

    def leave(self) -> None:
        """Say nothing any more: whoever watches the camera from now on does."""
        with self._lock:
            self._is_left = True
            self._bus.disown(self._topic)

    def _error(self) -> str | None:
        return "; ".join(self._troubles.values())[:_TEXT_MAX] or None
