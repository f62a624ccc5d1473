"""Clocks that a test moves."""

from __future__ import annotations

import threading

from config import ManualClock

__all__ = ["HeldClock"]


class HeldClock(ManualClock):
    """Its time passes only when the test says so; whoever waits waits a little and looks again."""

    def wait(self, stop: threading.Event, _timeout_s: float) -> bool:
        """Wait a moment."""
        return stop.wait(0.001)
