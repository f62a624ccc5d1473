"""Escalations as a sink gets them, and a sink that does what the test tells it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from bridge.sink import OnStored, Record, StoredAt
from broker.bus import Delivery
from broker.messages import Escalation, encode_json
from broker.topics import CAMERA_ESCALATION
from config.errors import TransientError
from tests.support.messages import AT, escalation

__all__ = ["FakeSink", "delivery", "record"]


def delivery(message: Escalation, *, camera: str = "yard", origin: str = "node-1.detector") -> Delivery:
    """An escalation as it comes off the bus."""
    topic = CAMERA_ESCALATION.at("home", camera=camera, origin=origin)
    return Delivery(topic, message, encode_json(message), retained=False, received_at=AT, _acknowledge=lambda: None)


def record(
    seq: int = 1, *, origin: str = "node-1.detector", epoch: str = "e1", camera: str = "yard", **changes: object
) -> Record:
    """A checked escalation."""
    message = escalation(f"{origin}:{epoch}:{seq}", camera, **changes)
    return Record.of(delivery(message, camera=camera, origin=origin), received_s=float(seq))


class FakeSink:
    """Keeps what it is given, when it is told to; the places it names are its own counter.

    Args:
        at_once: report within `write`; otherwise when `report` is called.
    """

    name = "fake"

    def __init__(self, *, at_once: bool = True) -> None:
        self.at_once = at_once
        self.broken = threading.Event()
        self.room = 1_000_000
        self.writes = 0
        self.taken: list[Record] = []
        self.before_write: Callable[[], None] = lambda: None
        self.closed = False
        self._on_stored: OnStored = lambda _stored: None

    def open(self, on_stored: OnStored) -> None:
        """Remember whom to tell."""
        self._on_stored = on_stored

    def write(self, records: Sequence[Record]) -> int:
        """Take as many as there is room for."""
        self.writes += 1
        self.before_write()
        if self.broken.is_set():
            raise TransientError("the fake sink is away")
        fitting = records[: self.room]
        self.taken += fitting
        if self.at_once:
            self.report(fitting)
        return len(fitting)

    def report(self, records: Sequence[Record], *, sink: str = "fake") -> None:
        """Say that these are durable."""
        ids = [item.event_id for item in self.taken]
        self._on_stored(
            [
                (item, StoredAt(sink, f"fake/{ids.index(item.event_id)}", AT, ids.count(item.event_id) > 1))
                for item in records
            ]
        )

    def close(self, timeout_s: float) -> None:
        """Remember that it was closed."""
        self.closed = True
