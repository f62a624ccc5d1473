"""Orders that every process takes, whatever its role: to say how it is, and to say everything again.

Both may be carried out as often as they come, so nothing is remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from broker.bus import Bus, Delivery
from broker.messages import Command, Reply
from broker.topics import NODE_COMMAND, NODE_REPLY
from config.errors import BadPayloadError, TransientError
from config.log import get_logger

__all__ = ["STANDING_ORDERS", "StandingOrders"]

STANDING_ORDERS = ("refresh", "status")
"""Names of commands that every process knows."""


class StandingOrders:
    """Answers them.

    Concurrency: `start` belongs to one thread; everything else happens on the bus's.

    Args:
        bus: where they come from.
        tell: how the process is, for ``status``.
        refresh: publish again all that is retained of it, for ``refresh``.
        is_alone: nobody else in this process takes orders, so that one nobody knows is refused here.
    """

    def __init__(
        self, bus: Bus, *, tell: Callable[[], Mapping[str, str]], refresh: Callable[[], None], is_alone: bool
    ) -> None:
        self._bus = bus
        self._tell = tell
        self._refresh = refresh
        self._is_alone = is_alone
        self._node, _, self._role = bus.origin.partition(".")

    def start(self) -> None:
        """Ask for orders to this process."""
        self._bus.subscribe(NODE_COMMAND, self.on_delivery, node=self._node, role=self._role)

    def on_delivery(self, delivery: Delivery) -> None:
        """Carry out an order, and answer it."""
        command = delivery.content
        if not isinstance(command, Command):
            return
        if delivery.retained:
            if self._is_alone:
                reason = "an order must not be retained: send it without"
                self._bus.reject(str(delivery.topic), reason, len(delivery.payload))
            return
        if command.name == "status":
            self._answer(Reply(correlation_id=command.correlation_id, ok=True, result=dict(self._tell())))
        elif command.name == "refresh":
            self._refresh()
            self._answer(Reply(correlation_id=command.correlation_id, ok=True))
        elif self._is_alone:
            reason = f"there is no order {command.name[:64]!r} here; known are {', '.join(STANDING_ORDERS)}"
            self._answer(Reply(correlation_id=command.correlation_id, ok=False, reason=reason))

    def _answer(self, reply: Reply) -> None:
        if not reply.correlation_id:
            return
        try:
            self._bus.publish(NODE_REPLY.at(self._bus.site, node=self._node, role=self._role), reply)
        except (TransientError, BadPayloadError) as error:
            get_logger().debug("bus.reply_unsent", error=str(error))  # whoever waits asks again
