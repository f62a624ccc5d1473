"""A street with a stranger on it: a broker, the raw wire, and the bridge under test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bridge.forward import Forwarder
from bridge.sink import EVENTS, Backlog, Sink
from broker.bus import Bus, Delivery
from broker.memory import MemoryBroker
from broker.messages import Message, Receipt, Receipts, Reject, encode_json
from broker.outbox import Outbox
from broker.topics import (
    CAMERA_ESCALATION,
    CAMERA_MOTION,
    RECEIPT,
    REJECT,
    Topic,
    TopicSpec,
)
from broker.transport import Outbound, TransportEvents
from config.backoff import Backoff
from config.settings import BusSettings, OutboxSettings

__all__ = ["ORIGIN", "Street", "identities", "identity", "place"]

ORIGIN = "node-1.detector"


class Street:
    """A broker, the raw wire of a stranger, and what comes back."""

    def __init__(self, tmp_path: Path) -> None:
        self.broker = MemoryBroker()
        self.tmp_path = tmp_path
        self.receipts: list[Receipt] = []
        self.rejects: list[Reject] = []
        self.listener = self._bus("listener", "node-9.listener")
        self.listener.subscribe(RECEIPT, self._on_answer)
        self.listener.subscribe(REJECT, self._on_answer)
        self._open: list[Callable[[], None]] = []
        self.stranger = self.broker.transports("stranger")(TransportEvents(lambda _m: None, lambda _n, _r: None), None)
        self._join(self.listener)
        self.stranger.open()

    def _on_answer(self, delivery: Delivery) -> None:
        if isinstance(delivery.content, Receipts):
            self.receipts += delivery.content.receipts
        elif isinstance(delivery.content, Reject):
            self.rejects.append(delivery.content)

    def _bus(self, client_id: str, origin: str, outbox: Outbox | None = None, resend_after_s: float = 10.0) -> Bus:
        return Bus(
            site="home",
            origin=origin,
            transports=self.broker.transports(client_id, persistent=client_id == "bridge"),
            outbox=outbox,
            settings=BusSettings(outbox=OutboxSettings(resend_after_s=resend_after_s)),
        )

    def _join(self, bus: Bus) -> None:
        bus.start()
        self._open.append(lambda: bus.close(drain_s=0))
        assert bus.wait_connected(30)

    def sender(self, resend_after_s: float = 10.0) -> Bus:
        """A detector with an outbox."""
        outbox = Outbox(self.tmp_path / "outbox.db", origin=ORIGIN)
        bus = self._bus("detector", ORIGIN, outbox, resend_after_s)
        self._join(bus)
        return bus

    def bridge(
        self,
        sink: Sink,
        *,
        events: Sequence[TopicSpec] = EVENTS,
        serves: Callable[[str], bool] = lambda _camera: True,
        backlog: Backlog | None = None,
        keeps_unreadable: bool = False,
        rows_max: int = 4000,
        bytes_max: int = 10**8,
        patience_s: float = 0.02,
    ) -> tuple[Forwarder, Bus]:
        """A bridge that runs."""
        bus = self._bus("bridge", "node-1.bridge")
        limits: dict[str, Any] = {"rows_max": rows_max, "bytes_max": bytes_max, "patience_s": patience_s}
        limits |= {"serves": serves, "keeps_unreadable": keeps_unreadable}
        forwarder = Forwarder(bus, sink, events=events, backlog=backlog, **limits)
        forwarder._writer._backoff = Backoff(0.001, 0.01)
        forwarder.start()
        self._join(bus)
        self._open.insert(0, lambda: forwarder.close(0.0))
        return forwarder, bus

    def say(self, message: Message | bytes, *, camera: str = "yard", origin: str = ORIGIN) -> None:
        """Publish an escalation past every check of a bus."""
        payload = message if isinstance(message, bytes) else encode_json(message)
        self.stranger.publish(Outbound(str(place(camera, origin)), payload, 1, retain=False))

    def say_event(self, message: Message | bytes, *, camera: str = "yard", spec: TopicSpec = CAMERA_MOTION) -> None:
        """Publish an event past every check of a bus."""
        payload = message if isinstance(message, bytes) else encode_json(message)
        self.stranger.publish(Outbound(str(spec.at("home", camera=camera)), payload, 1, retain=False))

    def unacknowledged(self) -> int:
        """Messages that the bridge has not acknowledged."""
        return len(self.broker._sessions["bridge"].unacknowledged)

    def receipted(self) -> list[str]:
        """Ids of the receipts, in order."""
        return [receipt.event_id for receipt in self.receipts]

    def close(self) -> None:
        """End everything."""
        for end in self._open:
            end()


def place(camera: str = "yard", origin: str = ORIGIN) -> Topic:
    return CAMERA_ESCALATION.at("home", camera=camera, origin=origin)


def identity(seq: int, origin: str = ORIGIN) -> str:
    return f"{origin}:e1:{seq}"


def identities(last: int) -> list[str]:
    return [identity(seq) for seq in range(1, last + 1)]
