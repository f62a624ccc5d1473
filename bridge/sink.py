"""What a sink is: it takes escalations and events, and says of each when it is durable and where it landed."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal, Protocol, runtime_checkable

import msgspec

from broker import Delivery
from broker.messages import ClipEvent, Escalation, MotionEvent, TrackEvent, decode_json
from broker.outbox_file import SEQ_MAX
from broker.topics import CONTRACT, DeliveryClass, TopicSpec, origin_of
from config import BadPayloadError

__all__ = [
    "ESCALATIONS",
    "EVENTS",
    "Backlog",
    "OnStored",
    "Record",
    "ShardedSink",
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
        rewritten: what goes into the sink in place of `payload` once its pictures lie elsewhere; empty: nothing does.
        fault: why it cannot be read; then `event_id` is empty where not even an id can, and there are no details.
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
    rewritten: bytes = b""
    fault: str = ""
    _digest: bytes = b""

    @property
    def value(self) -> bytes:
        """What goes into the sink."""
        return self.rewritten or self.payload

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
        """Check an escalation or event that came on the bus, decoded or as it is.

        The identity of an escalation must be that of the topic's origin: a broker lets a node write only under its
        own. The topic of an event names the camera only, which the broker lets only the camera's node write.

        Raises:
            BadPayloadError: it cannot be decoded, its identity is malformed or is not its topic's, or a time has no
                UTC.
        """
        content, topic = delivery.content, delivery.topic
        if isinstance(content, bytes) and topic.spec.payload is not None:
            content = decode_json(topic.spec.payload, content, max_bytes=topic.spec.max_bytes)
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

    @staticmethod
    def unreadable(delivery: Delivery, fault: str, received_s: float) -> Record:
        """What came where an escalation or event should, and is none: it can be kept, and answered where it has an id.

        Args:
            delivery: with the payload as it is.
            fault: what `of` has said.
            received_s: monotonic seconds.
        """
        topic = delivery.topic
        origin, epoch, seq = _identity_within(delivery)
        return Record(
            stream=topic.spec.name,
            event_id=f"{origin}:{epoch}:{seq}" if epoch else "",
            origin=origin,
            epoch=epoch,
            seq=seq,
            site=topic.site,
            camera=topic.camera,
            at=utc_text(delivery.received_at),
            details={},
            payload=delivery.payload,
            received_s=received_s,
            fault=fault,
        )

    @property
    def bus_topic(self) -> str:
        """Where on the bus it came."""
        spec = _SPECS[self.stream]
        names = {"camera": self.camera, "origin": self.origin}
        return str(spec.at(self.site, **{name: names[name] for name in spec.placeholders}))


class _Named(msgspec.Struct):
    id: str


def _identity_within(delivery: Delivery) -> tuple[str, str, int]:
    """The identity that an unreadable message has all the same; else the topic's origin, where that names one."""
    owner = delivery.topic.params.get("origin", "")
    try:
        origin, epoch, seq = identity_of(msgspec.json.decode(delivery.payload, type=_Named).id)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, BadPayloadError):
        return owner, "", 0
    return (origin, epoch, seq) if owner in ("", origin) else (owner, "", 0)


_SPECS = {spec.name: spec for spec in ESCALATIONS + EVENTS}
_ESCALATION_NAMES = frozenset(spec.name for spec in ESCALATIONS)


def _details(
    content: Escalation | MotionEvent | TrackEvent | ClipEvent, stream: str
) -> Mapping[str, str | int | float]:
    if isinstance(content, ClipEvent):
        return {"stream": stream, "type": content.reason, "label": "", "zones": ""}
    zones = "".join(f",{zone}" for zone in content.zones) + "," if content.zones else ""
    if not isinstance(content, Escalation):
        label = content.label if isinstance(content, TrackEvent) else ""
        return {"stream": stream, "type": content.type, "label": label, "zones": zones}
    return {
        "rule": content.rule,
        "kind": content.kind,
        "severity": content.severity,
        "summary": content.summary,
        "label": content.label,
        "zones": zones,
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
        text: str = msgspec.to_builtins(moment if moment.tzinfo is UTC else moment.astimezone(UTC))
    except OverflowError:
        raise BadPayloadError(f"time {moment.isoformat()} has no UTC") from None
    return text if moment.microsecond else f"{text[:-1]}.000000Z"


class StoredAt(msgspec.Struct, frozen=True):
    """Where a record landed.

    Attributes:
        sink: ``journal``, ``kafka``, ``dead-letters`` or ``quarantine``.
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


class Backlog(Protocol):
    """Old records that are to go into a sink while nothing live waits.

    Its own troubles hold up nothing that is live: it says them in the log, and has nothing to hand out meanwhile.

    Concurrency: all methods are called from the thread that writes to the sink.
    """

    def next(self, rows_max: int) -> list[Record]:
        """The next records, in order, each once; none where there is nothing left for now."""
        ...

    def serves(self, camera: str) -> bool:
        """Whether records of this camera may go out now; those that were handed out and may not come again later."""
        ...

    def done(self, stored: Sequence[tuple[Record, StoredAt]]) -> None:
        """The sink has these, in any order."""
        ...


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


@runtime_checkable
class ShardedSink(Sink, Protocol):
    """A sink that takes records of those shards only that it was told are this bridge's.

    Concurrency: both are called from any thread and return at once.
    """

    def gain(self, shard: int) -> None:
        """A shard is this bridge's from now on."""
        ...

    def lose(self, shard: int) -> None:
        """A shard is not this bridge's any more; what is on its way may be reported still."""
        ...
