"""What every message is made of, and the JSON codec."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from config.errors import BadPayloadError

__all__ = [
    "Box",
    "BoxPx",
    "Count",
    "Message",
    "Mode",
    "Moment",
    "Positive",
    "Short",
    "Text",
    "Unit",
    "Whole",
    "decode_json",
    "encode_json",
]

Unit = Annotated[float, Meta(ge=0.0, le=1.0)]


Box = tuple[Unit, Unit, Unit, Unit]
"""``(x1, y1, x2, y2)`` as fractions of the picture's width and height."""


BoxPx = tuple[float, float, float, float]
"""``(x1, y1, x2, y2)`` in pixels of the frame."""


Whole = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""What every reader can hold, a database too; JSON itself has no bound, and 4,000 digits would be an integer here."""


Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]


Positive = Annotated[float, Meta(gt=0.0)]


Moment = Annotated[datetime, Meta(tz=True)]


Mode = Literal["monitor", "zoom", "eco", "off"]
"""How a camera is watched; `config.cameras` says what each means."""


Short = Annotated[str, Meta(max_length=256)]


Text = Annotated[str, Meta(max_length=4096)]


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """What every JSON payload has.

    Attributes:
        v: schema version.
    """

    v: Literal[1] = 1


M = TypeVar("M", bound=Message)


_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


_LATEST = datetime(9999, 1, 1, tzinfo=UTC)


_REASON_MAX = 300


def encode_json(message: Message) -> bytes:
    """The message as compact JSON, UTF-8."""
    return msgspec.json.encode(message)


def decode_json(kind: type[M], payload: bytes | memoryview, *, max_bytes: int) -> M:
    """Read one message.

    Args:
        kind: the struct that the topic carries.
        payload: JSON, UTF-8.
        max_bytes: the largest payload that is looked at.

    Raises:
        BadPayloadError: it is too large, not JSON, of an unknown version, or a field has a wrong type or range; or a
            time lies outside of 1970 to 9998, beyond which there are time zones that it has no date in.
    """
    if len(payload) > max_bytes:
        raise BadPayloadError(
            f"{len(payload)} bytes are more than the {max_bytes} that this topic takes", size_bytes=len(payload)
        )
    if kind not in _LEARNT:
        _learn(kind)
    try:
        message = msgspec.json.decode(payload, type=kind)
    except msgspec.ValidationError as error:
        raise BadPayloadError(_reason(str(error)), size_bytes=len(payload)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadPayloadError(f"not JSON: {error}", size_bytes=len(payload)) from error
    except RecursionError as error:
        raise BadPayloadError("nested too deeply", size_bytes=len(payload)) from error
    for name in _moments(kind):
        moment = getattr(message, name)
        if moment is not None and not _EARLIEST <= moment <= _LATEST:
            raise BadPayloadError(f"{name} {moment.isoformat()} is not of this age", size_bytes=len(payload))
    return message


_LEARNT: set[type[Message]] = set()
_LEARNING = threading.Lock()


def _learn(kind: type[Message]) -> None:
    """Let msgspec look at a type, one thread at a time: two that decode the first of a kind at once crash 0.22."""
    with _LEARNING:
        msgspec.json.Decoder(kind)
        _LEARNT.add(kind)


@cache
def _moments(kind: type[Message]) -> tuple[str, ...]:
    return tuple(field.name for field in msgspec.structs.fields(kind) if field.type in (Moment, Moment | None))


def _reason(text: str) -> str:
    if text.startswith("Invalid enum value") and text.endswith("`$.v`"):
        return f"unknown schema version: {text[:_REASON_MAX]}; this reader knows version 1"
    # It repeats a wrong value, of any length.
    return text if len(text) <= _REASON_MAX else f"{text[:_REASON_MAX]}..."
