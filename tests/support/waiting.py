"""Waiting for a condition, never for time to pass."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["wait_until"]


def wait_until(condition: Callable[[], object], *, timeout_s: float = 30.0, what: str = "the condition") -> None:
    """Return as soon as `condition` holds.

    Raises:
        AssertionError: it does not hold within `timeout_s`.
    """
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise AssertionError(f"{what} did not come within {timeout_s} s")
        time.sleep(0.005)
