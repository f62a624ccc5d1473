"""How often the mesh under test sent something again, as its health reports tell it."""

from __future__ import annotations

from broker import Bus, Delivery, listen
from broker.messages import NodeHealth
from broker.topics import NODE_HEALTH
from config.settings import Settings

__all__ = ["ResendCounter"]


class ResendCounter:
    """Listens at the broker itself, beside the links. A process that is killed takes its last count with it.

    Args:
        settings: of the mesh.

    Attributes:
        total: messages sent again.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._bus: Bus | None = None
        self._last: dict[str, NodeHealth] = {}
        self._before = 0

    def start(self, url: str) -> None:
        """Listen at a broker."""
        bus = self._settings.bus.model_copy(update={"url": url})
        self._bus = listen(self._settings.model_copy(update={"bus": bus}), "chaos")
        self._bus.subscribe(NODE_HEALTH, self._on_health)
        self._bus.start()

    def _on_health(self, delivery: Delivery) -> None:
        health = delivery.content
        if not isinstance(health, NodeHealth):
            return
        last = self._last.get(health.role)
        if last is not None and health.uptime_s < last.uptime_s:
            self._before += last.counts.get("resent", 0)
        self._last[health.role] = health

    @property
    def total(self) -> int:
        """Messages sent again so far."""
        return self._before + sum(health.counts.get("resent", 0) for health in tuple(self._last.values()))

    def close(self) -> None:
        """Leave."""
        if self._bus is not None:
            self._bus.close(0.0)
