"""Orders over the bus: each is carried out once, and answered each time that it comes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

from broker import Bus, Delivery
from broker.messages import Command, Reply
from broker.standing import STANDING_ORDERS
from broker.topics import NODE_COMMAND, NODE_REPLY
from config import BadPayloadError, TransientError, VigilError, get_logger

__all__ = ["Desk", "Order"]

Order = Callable[[Mapping[str, str]], Mapping[str, str]]
"""Carries out one order with its arguments, and returns what is answered. Runs on the bus's thread: what takes longer
than a moment starts a thread of its own, and says so in its answer.

Raises:
    VigilError: it cannot be done; the message is the answer.
"""

_REMEMBERED_MAX = 512
"""Orders whose answers are remembered: somebody who asks again does so within seconds."""


class Desk:
    """Takes the orders to this process, and answers them.

    Concurrency: orders are carried out on the bus's thread.

    Args:
        bus: where they come from.
        orders: what can be asked here, by name.
    """

    def __init__(self, bus: Bus, orders: Mapping[str, Order]) -> None:
        self._bus = bus
        self._orders = dict(orders)
        self._node, _, self._role = bus.origin.partition(".")
        self._replied: OrderedDict[str, Reply] = OrderedDict()

    def start(self) -> None:
        """Ask for orders to this process."""
        self._bus.subscribe(NODE_COMMAND, self._on_delivery, node=self._node, role=self._role)

    def _on_delivery(self, delivery: Delivery) -> None:
        command = delivery.content
        if not isinstance(command, Command) or command.name in STANDING_ORDERS:
            return
        if delivery.retained:
            self._bus.reject(str(delivery.topic), "an order must not be retained: send it without", 0)
            return
        reply = self._replied.get(command.correlation_id) or self._carry_out(command)
        if not command.correlation_id:
            return
        self._replied[command.correlation_id] = reply
        if len(self._replied) > _REMEMBERED_MAX:
            self._replied.popitem(last=False)
        try:
            self._bus.publish(NODE_REPLY.at(self._bus.site, node=self._node, role=self._role), reply)
        except (TransientError, BadPayloadError) as error:
            get_logger().debug("fleet.reply_unsent", error=str(error))  # whoever waits asks again

    def _carry_out(self, command: Command) -> Reply:
        order = self._orders.get(command.name)
        try:
            if order is None:
                known = ", ".join(sorted((*self._orders, *STANDING_ORDERS)))
                raise BadPayloadError(f"there is no order {command.name[:64]!r} here; known are {known}")
            return Reply(correlation_id=command.correlation_id, ok=True, result=dict(order(command.arguments)))
        except VigilError as error:
            return Reply(correlation_id=command.correlation_id, ok=False, reason=str(error))
