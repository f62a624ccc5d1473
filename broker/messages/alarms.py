"""What a person should know, and the word that the sink has it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from broker.messages.base import Count, Message, Moment, Short, Text, Unit
from broker.messages.models import ModelRef
from broker.messages.scores import Detection

__all__ = ["Escalation", "Evidence", "Receipt", "Receipts"]


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """A picture inside an escalation.

    Attributes:
        content_type: ``image/jpeg``.
        sha256: of the decoded bytes.
        data: the bytes; Base64 in JSON (RFC 4648, section 4). Empty where they are elsewhere.
        uri: where the bytes are, when the bridge has put them into an object store on the way into Kafka.
    """

    content_type: Short
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    width: Count
    height: Count
    data: bytes = b""
    uri: Text = ""


class Escalation(Message, frozen=True, kw_only=True):
    """Something a person should know.

    Attributes:
        id: ``{origin}:{epoch}:{seq}``; seq has no gaps, so that anyone can prove a loss or a repeat.
        rule: name of the rule that fired.
        kind: kind of that rule.
        summary: one sentence for a person.
        captured_at: capture time of the frame that made the rule fire.
        raised_at: when it fired.
        clip: where the clip of it will be, below the place to which the camera's node delivers; empty where the
            node does not record.
        tracks: the objects that made it fire.
        zones: the zones in which they are.
        drill: a fake alarm, marked end to end.
    """

    id: Short
    camera: Short
    rule: Short
    kind: Short
    severity: Literal["info", "warning", "critical"]
    summary: Text
    label: Short
    score: Unit
    captured_at: Moment
    raised_at: Moment
    frame_seq: Count
    worker: Short
    model: ModelRef | None = None
    detections: tuple[Detection, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    clip: Text = ""
    tracks: tuple[Short, ...] = ()
    zones: tuple[Short, ...] = ()
    drill: bool = False


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The bridge's word that a sink has an escalation or an event.

    Attributes:
        event_id: the escalation or event.
        sha256: of its payload as the sink has it, 64 hexadecimal digits: what settles a message is its own bytes.
        sink: ``journal`` or ``kafka``; ``dead-letters`` or ``quarantine`` where Kafka does not take it.
        location: where it landed, such as ``vigil.escalations/0/4711``.
        stored_at: when the sink confirmed it.
        latency_ms: from the bridge's receiving it to that moment.
        repeated: the sink had it already.
    """

    event_id: Short
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    sink: Short
    location: Text
    stored_at: Moment
    latency_ms: float = 0.0
    repeated: bool = False


class Receipts(Message, frozen=True, kw_only=True):
    """The bridge's word for everything of one sender that became durable at once.

    Attributes:
        receipts: one for each escalation or event.
    """

    receipts: tuple[Receipt, ...]
