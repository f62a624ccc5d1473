"""What node and authority say to each other over HTTPS: three requests, JSON and PEM."""

from __future__ import annotations

import msgspec

from broker.identity import Admission
from config.errors import BadPayloadError

__all__ = [
    "CA_PATH",
    "DEFAULT_PORT",
    "JOIN_PATH",
    "RENEW_PATH",
    "REQUEST_BYTES_MAX",
    "RESPONSE_BYTES_MAX",
    "JoinRequest",
    "read_admission",
    "read_join_request",
]

DEFAULT_PORT = 8885
"""Beside the broker's 8883 and 8884."""
CA_PATH = "/ca.crt"
JOIN_PATH = "/join"
RENEW_PATH = "/renew"
REQUEST_BYTES_MAX = 8_192
"""A certificate request on P-256 has some 400 bytes."""
RESPONSE_BYTES_MAX = 262_144
"""Some 1,000 bytes for each role."""


class JoinRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A node, or a person's machine, asks to be let in.

    Attributes:
        secret: of the token; Base64 in JSON.
        name: as who it comes.
        request: certificate request, PEM.
    """

    secret: bytes
    name: str
    request: str


def read_join_request(content: bytes) -> JoinRequest:
    """Read a request to join.

    Raises:
        BadPayloadError: it is none; what is wrong is not said, for it might be repeated to a stranger.
    """
    try:
        return msgspec.json.decode(content, type=JoinRequest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadPayloadError("not a request to join", size_bytes=len(content)) from error


def read_admission(content: bytes) -> Admission:
    """Read what the authority hands out.

    Raises:
        BadPayloadError: it is something else.
    """
    try:
        return msgspec.json.decode(content, type=Admission)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadPayloadError(
            "the authority's answer cannot be read: is its Vigil of another version?", size_bytes=len(content)
        ) from error
