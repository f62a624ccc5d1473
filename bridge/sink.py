"""What a sink is: it takes escalations and events, and says of each when it is durable and where it landed."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal, Protocol

import msgspec

from broker import Delivery
from broker.messages import ClipEvent, Escalation, MotionEvent, TrackEvent
from broker.outbox_file import SEQ_MAX
from broker.topics import CONTRACT, DeliveryClass, TopicSpec, origin_of
from config import BadPayloadError

__all__ = [
    "ESCALATIONS",
    "EVENTS",
    "OnStored",
    "Record",
    "Sink",
    "StoredAt",
    "Table",
    "forwarded_events",
    "identity_of",
    "utc_text",
]

ESCALATIONS = tuple(spec for spec in CONTRACT if spec.delivery is DeliveryClass.DURABLE)
"""Lines of the contract that a sink must take."""
EVENTS = tuple(spec for spec in CONTRACT if spec.delivery is DeliveryClass.EVENT)
"""Lines of the contract that it takes where `bridge.forward` names them."""


def forwarded_events(forward: Sequence[str]) -> tuple[TopicSpec, ...]:
    """Those of `EVENTS` that `bridge.forward` names."""
    return tuple(spec for spec in EVENTS if spec.name.removeprefix("camera_") in forward)


Table = Literal["escalation", "event"]
"""What escalations and events are kept apart by."""

_IDENTITY = re.compile(r"([A-Za-z0-9_.-]{1,128}):([A-Za-z0-9_-]{1,64}):([1-9][0-9]{0,18})")


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One escalation or event on its way into a sink, checked.

    Attributes:
        stream: its line of the contract, such as ``camera_motion``.
        event_id: ``{origin}:{epoch}:{seq}``.
        at: when it was raised or happened, as RFC 3339 in UTC with six decimals and ``Z``: text order is time order.
        details: what else its table has a column for, by the column's name.
        payload: the JSON as it came, pictures included.
        received_s: monotonic seconds at which the bridge had it.
    """

    stream: str
    event_id: str
    origin: str
    epoch: str
    seq: int
    site: str
    camera: str
    at: str
    details: Mapping[str, str | int | float]
    payload: bytes
    received_s: float
    _digest: bytes = b""

    @property
    def digest(self) -> bytes:
        """SHA-256 of the payload, made when it is first asked for: the thread that reads the bus has no time for it."""
        if not self._digest:
            msgspec.structs.force_setattr(self, "_digest", hashlib.sha256(self.payload).digest())
        return self._digest

    @property
    def key(self) -> tuple[str, bytes]:
        """What a repeat has in common with the first: the id and every byte.

        Not the id alone. The topic of an event does not name its origin, so somebody else may have used the id first;
        and an outbox that was restored from a copy gives old numbers to new messages. Neither may keep a message out.
        """
        return self.event_id, self.digest

    @property
    def table(self) -> Table:
        """Where it belongs."""
        return "escalation" if self.stream in _ESCALATION_NAMES else "event"

    @staticmethod
    def of(delivery: Delivery, received_s: float) -> Record:
        """Check an escalation or event that came on the bus.

        The identity of an escalation must be that of the topic's origin: a broker lets a node write only under its
        own. The topic of an event names the camera only, which the broker lets only the camera's node write.

        Raises:
            BadPayloadError: its identity is malformed or is not its topic's, or a time has no UTC.
        """
        content, topic = delivery.content, delivery.topic
        if not isinstance(content, Escalation | MotionEvent | TrackEvent | ClipEvent):
            raise BadPayloadError("neither an escalation nor an event")
        origin, epoch, seq = identity_of(content.id)
        if origin != topic.params.get("origin", origin):
            raise BadPayloadError(f"event id {content.id!r} is not of the topic's origin")
        if content.camera != topic.camera:
            raise BadPayloadError(f"camera {content.camera!r} is not the topic's")
        return Record(
            stream=topic.spec.name,
            event_id=content.id,
            origin=origin,
            epoch=epoch,
            seq=seq,
            site=topic.site,
            camera=content.camera,
            at=utc_text(content.raised_at if isinstance(content, Escalation) else content.at),
            details=_details(content, topic.spec.name),
            payload=delivery.payload,
            received_s=received_s,
        )


_ESCALATION_NAMES = frozenset(spec.name for spec in ESCALATIONS)


def _details(
    content: Escalation | MotionEvent | TrackEvent | ClipEvent, stream: str
) -> Mapping[str, str | int | float]:
    if isinstance(content, ClipEvent):
        return {"stream": stream, "type": content.reason}
    if not isinstance(content, Escalation):
        return {"stream": stream, "type": content.type}
    return {
        "rule": content.rule,
        "kind": content.kind,
        "severity": content.severity,
        "summary": content.summary,
        "label": content.label,
        "score": content.score,
        "captured_at": utc_text(content.captured_at),
        "drill": int(content.drill),
    }


def identity_of(value: str) -> tuple[str, str, int]:
    """Origin, epoch and sequence of an event id that a stranger may have written.

    Raises:
        BadPayloadError: it is not of the form ``{origin}:{epoch}:{seq}``, or could not have come from an outbox.
    """
    match = _IDENTITY.fullmatch(value)
    if match is None:
        raise BadPayloadError(f"event id {value[:256]!r} is not of the form origin:epoch:seq")
    origin, epoch, seq = match[1], match[2], int(match[3])
    if seq > SEQ_MAX or not _is_origin(origin):
        raise BadPayloadError(f"event id {value!r}: the origin is node.role, the sequence at most {SEQ_MAX}")
    return origin, epoch, seq


@lru_cache(maxsize=1_024)
def _is_origin(value: str) -> bool:
    """Whether a process may be called so; its receipts need a topic."""
    node, _, role = value.partition(".")
    try:
        return origin_of(node, role) == value
    except ValueError:
        return False


def utc_text(moment: datetime) -> str:
    """An aware time as RFC 3339 in UTC, always with six decimals and ``Z``.

    Raises:
        BadPayloadError: it lies before year 1 or after year 9999 in UTC.
    """
    try:
        in_utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
        return f"{in_utc.isoformat(timespec='microseconds')[:-6]}Z"
    except OverflowError:
        raise BadPayloadError(f"time {moment.isoformat()} has no UTC") from None


@dataclass(frozen=True, slots=True)
class StoredAt:
    """Where a record landed.

    Attributes:
        sink: ``journal``, ``kafka`` or ``quarantine``.
        location: the place in it, such as ``vigil.escalations/0/4711``.
        at: when that was durable.
        repeated: the sink had it already.
    """

    sink: str
    location: str
    at: datetime
    repeated: bool = False


OnStored = Callable[[Sequence[tuple[Record, StoredAt]]], None]
"""Told of records that are durable; from any thread, in any order, each record once."""


class Sink(Protocol):
    """Where escalations and events go.

    Concurrency: `write` is called from one thread. What it has taken it owns: it is reported through `on_stored`, or
    the process ends before. Nothing is reported that a crash could still take away.
    """

    @property
    def name(self) -> str:
        """``journal`` or ``kafka``."""
        ...

    def open(self, on_stored: OnStored) -> None:
        """Make it ready.

        Raises:
            TransientError: it is away.
            PermanentError: it cannot be used; the message names the cure.
        """
        ...

    def write(self, records: Sequence[Record]) -> int:
        """Take records, in order.

        Returns:
            How many of the first were taken; fewer than all means that there is no room now.

        Raises:
            TransientError: none was taken; try again.
            PermanentError: none was taken, and trying again cannot help.
        """
        ...

    def gaps(self) -> Counter[tuple[str, str]]:
        """How many sequences it lacks between the lowest and the highest it has, by line of the contract and origin."""
        ...

    def close(self, timeout_s: float) -> None:
        """Finish what was taken within `timeout_s`, and let go of everything."""
        ...
