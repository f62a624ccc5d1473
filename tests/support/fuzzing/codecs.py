"""The codecs that read what a stranger may send, each with what must hold of an input that it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from bridge.sink import Record, identity_of
from broker.bus import Delivery
from broker.frames import Frame, decode_frame, encode_frame
from broker.intake import Intake, Subscription
from broker.messages import (
    ClipEvent,
    Escalation,
    FrameMeta,
    Message,
    MotionEvent,
    Reject,
    TrackEvent,
    decode_json,
    encode_json,
)
from broker.outbox import event_id
from broker.topics import CONTRACT, PayloadKind, Topic, parse_topic
from broker.transport import Inbound
from config.clock import ManualClock
from config.errors import BadPayloadError
from tests.support.fuzzing import inputs

__all__ = ["CODECS", "Codec"]

_TOPIC_BYTES_MAX = 65_535
"""Source: MQTT 5, section 1.5.4."""
_ID_BYTES_MAX = 4 * 256
"""An event id is a string of at most 256 characters by the time it is taken apart."""
_BYTES_MAX = 2_000_000
"""More than any JSON topic takes; a message that is written anew may be longer than it came (``0`` becomes ``0.0``)."""


@dataclass(frozen=True)
class Codec:
    """Something that reads bytes.

    Attributes:
        make: a new input.
        decode: reads one; raises BadPayloadError and nothing else.
        verify: asserts what must hold of what it read, as that it is the same after it was written and read again.
        bytes_max: the longest input that the wire hands over.
    """

    name: str
    make: Callable[[Random], bytes]
    decode: Callable[[bytes], object]
    verify: Callable[[bytes, object], None]
    bytes_max: int = _BYTES_MAX


def _decode_message(kind: type[Message], data: bytes) -> Message:
    return decode_json(kind, data, max_bytes=_BYTES_MAX)


def _verify_message(_data: bytes, read: object) -> None:
    assert isinstance(read, Message)
    assert decode_json(type(read), encode_json(read), max_bytes=2 * _BYTES_MAX) == read


def _verify_frame(data: bytes, read: object) -> None:
    assert isinstance(read, Frame)
    assert read.jpeg is data
    try:
        again = encode_frame(data, read.meta)
    except BadPayloadError:
        assert len(encode_json(read.meta)) > 65_000, "only what does not fit is refused"
        return
    assert decode_frame(again, max_bytes=2 * len(again)).meta == read.meta


def _text(data: bytes) -> str:
    """As the wire hands it over: UTF-8, and nothing else."""
    return data.decode(errors="replace")


def _verify_topic(data: bytes, read: object) -> None:
    assert isinstance(read, Topic)
    assert str(read) == _text(data)
    assert read.spec.at(read.site, **read.params) == read


def _verify_identity(data: bytes, read: object) -> None:
    assert isinstance(read, tuple)
    assert event_id(*read) == _text(data)


class _Receiver:
    """Everything between the wire and a sink: topic, payload, age, the record that a bridge makes of it."""

    def __init__(self) -> None:
        self._read: object = None
        self._reason: str | None = None
        self._intake = Intake(
            site="home",
            origin="node-1.bridge",
            clock=ManualClock(),
            frame_age_max_s=2.0,
            publish=self._on_reject,
            catch_up=lambda: False,
        )
        self._intake.add(Subscription("#", 0, None, {}, self._on_delivery, manual_ack=False))

    def decode(self, data: bytes) -> object:
        topic, _, payload = data.partition(b"\n")
        self._read = None
        rejected = self._intake.rejected
        acknowledged: list[None] = []
        self._intake.on_message(
            Inbound(_text(topic[:_TOPIC_BYTES_MAX]), payload, 1, retained=False, token=1),
            lambda: acknowledged.append(None),
        )
        assert acknowledged == [None], "a message that is not acknowledged comes again for ever"
        if self._intake.rejected > rejected:
            raise BadPayloadError(f"rejected {self._read!r}")
        return self._read

    def verify(self, _data: bytes, read: object) -> None:
        if read is None:
            return  # a frame that came too late
        assert isinstance(read, Delivery)
        if isinstance(read.content, Escalation | MotionEvent | TrackEvent | ClipEvent):
            try:
                record = Record.of(read, 0.0)
            except BadPayloadError:
                return
            assert record.event_id == read.content.id

    def _on_delivery(self, delivery: Delivery) -> None:
        self._read = delivery

    def _on_reject(self, _topic: Topic, message: Reject) -> None:
        assert decode_json(Reject, encode_json(message), max_bytes=64 * 1024) == message


def _message_to_receive(rng: Random) -> bytes:
    spec = rng.choice(CONTRACT)
    if spec.kind is PayloadKind.JPEG:
        content = inputs.frame(rng)
    elif spec.payload is not None:
        content = inputs.payload(spec.payload, rng)
    else:
        content = rng.choice((b"ON", b"OFF", b"on", b"", b"ON\n", b"\xff"))
    return inputs.topic(rng, spec).replace(b"\n", b"") + b"\n" + content


def _all_codecs() -> Sequence[Codec]:
    kinds: list[type[Message]] = [FrameMeta, *(spec.payload for spec in CONTRACT if spec.payload is not None)]
    receiver = _Receiver()
    return (
        Codec("frame", inputs.frame, decode_frame, _verify_frame),
        *(
            Codec(kind.__name__, partial(inputs.payload, kind), partial(_decode_message, kind), _verify_message)
            for kind in dict.fromkeys(kinds)
        ),
        Codec("topic", inputs.topic, lambda data: parse_topic(_text(data)), _verify_topic, _TOPIC_BYTES_MAX),
        Codec("event id", inputs.identity, lambda data: identity_of(_text(data)), _verify_identity, _ID_BYTES_MAX),
        Codec("receive", _message_to_receive, receiver.decode, receiver.verify),
    )


CODECS = _all_codecs()
