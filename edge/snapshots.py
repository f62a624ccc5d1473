"""Snapshots that somebody waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from edge.orders import Answer

__all__ = ["SnapshotDesk"]

_WAIT_S = 10.0
"""For a picture. A camera that is read with keyframes only may need some seconds."""

GiveAnswer = Callable[[Answer], None]


class SnapshotDesk:
    """Who waits for a snapshot, and since when one is due anyway.

    Concurrency: may be called from any thread.

    Args:
        every_s: seconds between snapshots that nobody asks for; None: there are none.
    """

    def __init__(self, every_s: float | None) -> None:
        self._every_s = every_s
        self._lock = threading.Lock()
        self._waiting: list[tuple[float, GiveAnswer]] = []
        self._due_s = float("-inf")

    def ask(self, answer: GiveAnswer, now_s: float) -> None:
        """Wait for the next one."""
        with self._lock:
            self._waiting.append((now_s + _WAIT_S, answer))

    def is_due(self, now_s: float) -> bool:
        """Whether the next picture is to be one."""
        with self._lock:
            return bool(self._waiting) or (self._every_s is not None and now_s >= self._due_s)

    def taken(self, now_s: float, *, result: Mapping[str, str], trouble: str | None) -> None:
        """Tell everybody who waits what came of it."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
            if self._every_s is not None:
                self._due_s = now_s + self._every_s
        for _, answer in waiting:
            answer(Answer({} if trouble else result, trouble))

    def give_up(self, now_s: float, reason: str | None = None) -> None:
        """Refuse whoever has waited for too long, or everybody when there is a reason."""
        with self._lock:
            refused = [answer for until_s, answer in self._waiting if reason or now_s >= until_s]
            self._waiting = [] if reason else [waiting for waiting in self._waiting if now_s < waiting[0]]
        for answer in refused:
            answer(
                Answer({}, reason or f"no picture came from the camera within {_WAIT_S:.0f} s; its state may say why")
            )
