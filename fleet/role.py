"""The fleet as a process: the registry on the bus, nodes let in, schedules kept, cameras found again.

Nothing that runs depends on it: the documents that it publishes are retained, and every node goes on without it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from broker import Bus, Figures, Presence, connect
from config import get_logger
from config.settings import Settings
from fleet.desk import Desk, Order

__all__ = ["Order", "Part", "run_fleet"]


class Part(Protocol):
    """One thing that the fleet does."""

    @property
    def orders(self) -> Mapping[str, Order]:
        """What it can be asked to do, by the name of the order."""
        ...

    def start(self) -> None:
        """Begin, before the bus connects: ask for topics here."""
        ...

    def close(self) -> None:
        """End in order, while the bus is still there."""
        ...

    def figures(self) -> Figures:
        """What it adds to the process's health."""
        ...


def run_fleet(settings: Settings, role: str, stop: threading.Event, parts: Callable[[Bus], list[Part]]) -> None:
    """Keep the fleet in order until `stop` is set.

    Args:
        settings: the site's settings.
        role: ``fleet``.
        stop: set by signals, or by a test.
        parts: makes what this process does, for its bus.

    Raises:
        PermanentError: the broker refuses us for good, or the outbox cannot be opened.
    """
    fatal: list[Exception] = []

    def on_fatal(error: Exception) -> None:
        fatal.append(error)
        stop.set()

    bus = connect(settings, role, with_outbox=True, on_fatal=on_fatal)
    made = parts(bus)
    desk = Desk(bus, {name: order for part in made for name, order in part.orders.items()})
    presence = Presence(bus, settings, role, figures=lambda: _together(made), takes_orders=True)
    for part in made:
        part.start()
    desk.start()
    bus.start()
    presence.start()
    get_logger().info("fleet.started", registry=str(settings.fleet.registry))
    stop.wait()
    for part in reversed(made):
        part.close()
    presence.close()
    bus.close()
    get_logger().info("fleet.stopped")
    if fatal:
        raise fatal[0]


def _together(parts: list[Part]) -> Figures:
    whole = Figures()
    for part in parts:
        figures = part.figures()
        whole.queues.update(figures.queues)
        whole.drops.update(figures.drops)
        whole.counts.update(figures.counts)
    return whole
