"""A wanted value as people send it: the struct, or bare text."""

from __future__ import annotations

from broker.messages import CommandValue, decode_json
from config.errors import BadPayloadError

__all__ = ["decode_command_value"]

_BARE_MAX = 256


def decode_command_value(payload: bytes, *, max_bytes: int) -> CommandValue:
    """Read a wanted value: the struct, or bare text that stands for the value, as an MQTT command line sends it.

    Raises:
        BadPayloadError: it looks like the struct and is none, or is no text.
    """
    if payload.lstrip()[:1] == b"{":
        return decode_json(CommandValue, payload, max_bytes=max_bytes)
    if len(payload) > _BARE_MAX:
        raise BadPayloadError(f"a value of {len(payload)} bytes is more than the {_BARE_MAX} of bare text")
    try:
        return CommandValue(value=payload.decode().strip().strip('"'))
    except UnicodeDecodeError as error:
        raise BadPayloadError(f"neither JSON nor text: {error}", size_bytes=len(payload)) from error
