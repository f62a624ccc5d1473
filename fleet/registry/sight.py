"""What the bus says of cameras, beside what their files say: for people who look."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from broker import Delivery, listen
from broker.messages import CameraState
from broker.topics import CAMERA_STATE
from config import SystemClock, TransientError
from config.settings import Settings
from fleet.registry.facts import Facts
from fleet.registry.reach import looks_as, wait_for_broker

__all__ = ["Sight"]

_KNOWN_S = 10.0
_STATES_S = 0.5
"""Retained states have come by then, after the documents."""
_LOOK_S = 0.02


class Sight:
    """Listens to the registry and to the cameras' states; a context manager.

    Concurrency: one thread looks.

    Args:
        settings: the site's.

    Raises:
        TransientError: there is no broker.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._states: dict[str, CameraState] = {}
        self._bus = listen(settings, looks_as(settings))
        self.facts = Facts(self._bus, SystemClock())

    def __enter__(self) -> Self:
        self._bus.subscribe(CAMERA_STATE, self._on_state)
        self.facts.start()
        self._bus.start()
        try:
            wait_for_broker(self._bus, self._settings)
        except TransientError:
            self._bus.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bus.close()

    def wait_known(self) -> None:
        """Wait until what is retained has come."""
        begun_s = time.monotonic()
        self._wait(lambda: self.facts.complete and time.monotonic() - begun_s > _STATES_S, _KNOWN_S)

    @property
    def states(self) -> dict[str, CameraState]:
        """The last word of each camera's node."""
        with self._lock:
            return dict(self._states)

    def wait_running(self, camera: str, wait_s: float) -> CameraState | None:
        """Wait until a camera is online; else its last state after `wait_s` seconds, None where nobody has said any."""
        self._wait(lambda: self._is_online(camera), wait_s)
        return self.states.get(camera)

    def _is_online(self, camera: str) -> bool:
        state = self.states.get(camera)
        return state is not None and state.state == "online"

    def _on_state(self, delivery: Delivery) -> None:
        if isinstance(delivery.content, CameraState | None):
            with self._lock:
                if delivery.content is None:
                    self._states.pop(delivery.topic.camera, None)
                else:
                    self._states[delivery.topic.camera] = delivery.content

    @staticmethod
    def _wait(condition: Callable[[], bool], wait_s: float) -> None:
        end_s = time.monotonic() + wait_s
        while not condition() and time.monotonic() < end_s:
            time.sleep(_LOOK_S)
