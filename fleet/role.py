"""The fleet as a process: the registry on the bus, nodes let in, schedules kept, cameras found again.

Nothing that runs depends on it: the documents that it publishes are retained, and every node goes on without it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from broker import Bus, Delivery, Figures, Presence, connect
from broker.messages import Command, Reply
from broker.standing import STANDING_ORDERS
from broker.topics import NODE_COMMAND, NODE_REPLY
from config import BadPayloadError, TransientError, VigilError, get_logger
from config.service import Service
from config.settings import Settings

__all__ = ["Order", "Part", "run_fleet"]

Order = Callable[[Mapping[str, str]], Mapping[str, str]]
"""Carries out one order with its arguments, and returns what is answered. Runs on the bus's thread: what takes longer
than a moment starts a thread of its own, and says so in its answer.

Raises:
    VigilError: it cannot be done; the message is the answer.
"""


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
    desk = _Desk(bus, made)
    presence = Presence(bus, settings, role, figures=lambda: _together(made), takes_orders=True)
    service = Service(lambda: "connected" if bus.connected else "broker away")
    for part in made:
        part.start()
    desk.start()
    bus.start()
    presence.start()
    get_logger().info("fleet.started", registry=str(settings.fleet.registry))
    service.ready()
    stop.wait()
    service.stopping()
    for part in reversed(made):
        part.close()
    presence.close()
    bus.close()
    get_logger().info("fleet.stopped")
    if fatal:
        raise fatal[0]


class _Desk:
    """Takes the orders to this process, and answers them."""

    def __init__(self, bus: Bus, parts: list[Part]) -> None:
        self._bus = bus
        self._orders = {name: order for part in parts for name, order in part.orders.items()}
        self._node, _, self._role = bus.origin.partition(".")

    def start(self) -> None:
        self._bus.subscribe(NODE_COMMAND, self._on_delivery, node=self._node, role=self._role)

    def _on_delivery(self, delivery: Delivery) -> None:
        command = delivery.content
        if not isinstance(command, Command) or command.name in STANDING_ORDERS:
            return
        if delivery.retained:
            self._bus.reject(str(delivery.topic), "an order must not be retained: send it without", 0)
            return
        order = self._orders.get(command.name)
        try:
            if order is None:
                known = ", ".join(sorted((*self._orders, *STANDING_ORDERS)))
                raise BadPayloadError(f"there is no order {command.name[:64]!r} here; known are {known}")
            reply = Reply(correlation_id=command.correlation_id, ok=True, result=dict(order(command.arguments)))
        except VigilError as error:
            reply = Reply(correlation_id=command.correlation_id, ok=False, reason=str(error))
        if not command.correlation_id:
            return
        try:
            self._bus.publish(NODE_REPLY.at(self._bus.site, node=self._node, role=self._role), reply)
        except (TransientError, BadPayloadError) as error:
            get_logger().debug("fleet.reply_unsent", error=str(error))  # whoever waits asks again


def _together(parts: list[Part]) -> Figures:
    whole = Figures()
    for part in parts:
        figures = part.figures()
        whole.queues.update(figures.queues)
        whole.drops.update(figures.drops)
        whole.counts.update(figures.counts)
    return whole
