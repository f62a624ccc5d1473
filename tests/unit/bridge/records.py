"""Escalations and events as a sink gets them, and a sink that does what the test tells it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from bridge.sink import OnStored, Record, StoredAt
from broker.bus import Delivery
from broker.messages import ClipEvent, Escalation, MotionEvent, TrackEvent, encode_json
from broker.topics import CAMERA_CLIP, CAMERA_ESCALATION, CAMERA_MOTION, CAMERA_TRACK, Topic
from config.errors import TransientError
from tests.support.messages import AT, clip, escalation, motion, track

__all__ = ["FakeSink", "delivery", "event", "record"]


Stored = Escalation | MotionEvent | TrackEvent | ClipEvent
_MAKERS: Mapping[str, Callable[..., Stored]] = {"camera_motion": motion, "camera_track": track, "camera_clip": clip}


def delivery(message: Stored, *, camera: str = "yard", origin: str = "node-1.detector") -> Delivery:
    """An escalation or event as it comes off the bus."""
    topic = _topic(message, camera, origin)
    return Delivery(topic, message, encode_json(message), retained=False, received_at=AT, _acknowledge=lambda: None)


def _topic(message: Stored, camera: str, origin: str) -> Topic:
    match message:
        case MotionEvent():
            return CAMERA_MOTION.at("home", camera=camera)
        case TrackEvent():
            return CAMERA_TRACK.at("home", camera=camera)
        case ClipEvent():
            return CAMERA_CLIP.at("home", camera=camera)
        case _:
            return CAMERA_ESCALATION.at("home", camera=camera, origin=origin)


def record(
    seq: int = 1, *, origin: str = "node-1.detector", epoch: str = "e1", camera: str = "yard", **changes: object
) -> Record:
    """A checked escalation."""
    message = escalation(f"{origin}:{epoch}:{seq}", camera, **changes)
    return Record.of(delivery(message, camera=camera, origin=origin), received_s=float(seq))


def event(
    seq: int = 1,
    *,
    stream: str = "camera_motion",
    origin: str = "node-1.edge",
    epoch: str = "m1",
    camera: str = "yard",
    **changes: object,
) -> Record:
    """A checked event, of motion where nothing else is said."""
    message = _MAKERS[stream](f"{origin}:{epoch}:{seq}", camera, **changes)
    return Record.of(delivery(message, camera=camera), received_s=float(seq))


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
        self.missing: Counter[tuple[str, str]] = Counter()
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
        keys = [item.key for item in self.taken]
        self._on_stored(
            [(item, StoredAt(sink, f"fake/{keys.index(item.key)}", AT, keys.count(item.key) > 1)) for item in records]
        )

    def gaps(self) -> Counter[tuple[str, str]]:
        """What the test says is missing."""
        return self.missing

    def close(self, timeout_s: float) -> None:
        """Remember that it was closed."""
        self.closed = True
