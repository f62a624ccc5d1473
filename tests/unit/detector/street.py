"""A site in memory: one camera node, and somebody who listens to everything that the detector says."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from broker import Bus, Delivery
from broker.memory import MemoryBroker
from broker.outbox import Outbox
from broker.topics import (
    CAMERA_DETECTIONS,
    CAMERA_ESCALATION,
    CAMERA_EVIDENCE,
    CAMERA_FRAME,
    CAMERA_TRACK,
    CAMERA_TRACK_OPEN,
    REJECT,
    TopicSpec,
)

__all__ = ["ORIGIN", "SITE", "Street"]

SITE = "home"
ORIGIN = "node-1.detector"


@dataclass(slots=True)
class Street:
    """A site with one camera node and somebody who listens to everything that the detector says.

    Attributes:
        broker: between them.
        heard: messages by line of the contract, as they came.
    """

    broker: MemoryBroker
    folder: Path
    heard: dict[TopicSpec, list[Delivery]] = field(default_factory=dict)
    buses: list[Bus] = field(default_factory=list)
    node: Bus = field(init=False)

    def open(self) -> None:
        """Connect the node and the listener."""
        self.node = self.join("node-1.edge")
        listener = self.join("node-1.console", start=False)
        for spec in (
            CAMERA_DETECTIONS,
            CAMERA_ESCALATION,
            CAMERA_EVIDENCE,
            CAMERA_TRACK,
            CAMERA_TRACK_OPEN,
            REJECT,
        ):
            self.heard[spec] = []
            listener.subscribe(spec, self.heard[spec].append)
        listener.start()
        assert listener.wait_connected(30)

    def join(self, origin: str, *, start: bool = True) -> Bus:
        """A bus without an outbox."""
        return self._bus(origin, None, start=start)

    def worker_bus(self, *, rows_max: int = 1000) -> Bus:
        """The detector's own bus, not started; each has the same outbox file."""
        outbox = Outbox(self.folder / "outbox.db", origin=ORIGIN, rows_max=rows_max)
        return self._bus(ORIGIN, outbox, start=False)

    def _bus(self, origin: str, outbox: Outbox | None, *, start: bool) -> Bus:
        bus = Bus(site=SITE, origin=origin, transports=self.broker.transports(origin), outbox=outbox)
        self.buses.append(bus)
        if start:
            bus.start()
            assert bus.wait_connected(30)
        return bus

    def send(self, frame: bytes, camera: str = "yard") -> None:
        """Publish a frame as the node does."""
        self.node.publish(CAMERA_FRAME.at(SITE, camera=camera), frame)
