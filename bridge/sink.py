"""What a sink is: it takes escalations, and says of each when it is durable and where it landed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from broker import Delivery
from broker.messages import Escalation
from broker.outbox import event_id, split_event_id
from config import BadPayloadError

__all__ = ["OnStored", "Record", "Sink", "StoredAt", "identity_of", "utc_text"]

_ORIGIN = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_EPOCH = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SEQ_MAX = 2**63 - 1
"""What SQLite stores as an integer."""


@dataclass(frozen=True, slots=True)
class Record:
    """One escalation on its way into a sink, checked.

    Attributes:
        event_id: ``{origin}:{epoch}:{seq}``.
        captured_at: RFC 3339 in UTC with six decimals and ``Z``, so that text order is time order.
        raised_at: in the same form.
        payload: the JSON as it came, pictures included.
        received_s: monotonic seconds at which the bridge had it.
    """

    event_id: str
    origin: str
    epoch: str
    seq: int
    site: str
    camera: str
    rule: str
    kind: str
    severity: str
    summary: str
    label: str
    score: float
    captured_at: str
    raised_at: str
    drill: bool
    payload: bytes
    received_s: float

    @staticmethod
    def of(delivery: Delivery, received_s: float) -> Record:
        """Check an escalation that came on the bus.

        The identity must be that of the topic's origin: a broker lets a node write only under its own, so a stolen
        node can neither forge nor settle another's escalations.

        Raises:
            BadPayloadError: its identity is malformed or is not its topic's, or a time has no UTC.
        """
        escalation, topic = delivery.content, delivery.topic
        if not isinstance(escalation, Escalation):
            raise BadPayloadError("not an escalation")
        origin, epoch, seq = identity_of(escalation.id)
        if origin != topic.params["origin"]:
            raise BadPayloadError(f"event id {escalation.id!r} is not of the topic's origin")
        if escalation.camera != topic.camera:
            raise BadPayloadError(f"camera {escalation.camera!r} is not the topic's")
        return Record(
            event_id=escalation.id,
            origin=origin,
            epoch=epoch,
            seq=seq,
            site=topic.site,
            camera=escalation.camera,
            rule=escalation.rule,
            kind=escalation.kind,
            severity=escalation.severity,
            summary=escalation.summary,
            label=escalation.label,
            score=escalation.score,
            captured_at=utc_text(escalation.captured_at),
            raised_at=utc_text(escalation.raised_at),
            drill=escalation.drill,
            payload=delivery.payload,
            received_s=received_s,
        )


def identity_of(value: str) -> tuple[str, str, int]:
    """Origin, epoch and sequence of an event id that a stranger may have written.

    Raises:
        BadPayloadError: it is not of the form ``{origin}:{epoch}:{seq}``, or could not have come from an outbox.
    """
    try:
        origin, epoch, seq = split_event_id(value)
    except ValueError:
        raise BadPayloadError(f"event id {value!r} is not of the form origin:epoch:seq") from None
    is_plain = _ORIGIN.fullmatch(origin) and _EPOCH.fullmatch(epoch) and seq <= _SEQ_MAX
    if not is_plain or event_id(origin, epoch, seq) != value:
        raise BadPayloadError(f"event id {value!r}: origin and epoch are words, the sequence a number below 2^63")
    return origin, epoch, seq


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
    """Where escalations go.

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

    def close(self, timeout_s: float) -> None:
        """Finish what was taken within `timeout_s`, and let go of everything."""
        ...
